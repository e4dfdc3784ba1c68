//! A package registry on loopback, behind TLS: one small package, `egret-sample` 1.0.0, for pip, npm and cargo.

use std::path::PathBuf;

use crate::support::Folder;
use crate::support::certificates::Authority;
use crate::support::nginx::Nginx;
use crate::support::peer::{command_at, packaged, run};

/// A running registry.
pub(super) struct Registry {
    folder: Folder,
    nginx: Nginx,
    /// The authority of its certificate.
    pub(super) ca: PathBuf,
}

/// Writes what each client asks for below the folder.
const FILES: &str = "
import base64, hashlib, io, json, os, sys, tarfile, zipfile
www, url = sys.argv[1:]
def write(path, data):
    path = os.path.join(www, path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, 'wb') as file: file.write(data if isinstance(data, bytes) else data.encode())
def tar(files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode='w:gz') as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    return out.getvalue()

out = io.BytesIO()
with zipfile.ZipFile(out, 'w') as wheel:
    info = 'egret_sample-1.0.0.dist-info/'
    wheel.writestr('egret_sample.py', 'name = \"sample\"')
    wheel.writestr(info + 'METADATA', 'Metadata-Version: 2.1\\nName: egret-sample\\nVersion: 1.0.0\\n')
    wheel.writestr(info + 'WHEEL', 'Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')
    wheel.writestr(info + 'RECORD', '')
name = 'egret_sample-1.0.0-py3-none-any.whl'
write('simple/egret-sample/' + name, out.getvalue())
digest = hashlib.sha256(out.getvalue()).hexdigest()
write('simple/egret-sample/index.html', f'<!DOCTYPE html><a href=\"{name}#sha256={digest}\">{name}</a>')

archive = tar({'package/package.json': json.dumps({'name': 'egret-sample', 'version': '1.0.0', 'main': 'index.js'}),
    'package/index.js': 'module.exports = \"sample\";'})
write('files/egret-sample-1.0.0.tgz', archive)
integrity = 'sha512-' + base64.b64encode(hashlib.sha512(archive).digest()).decode()
version = {'name': 'egret-sample', 'version': '1.0.0', 'dist': {'tarball': url + '/files/egret-sample-1.0.0.tgz', 'integrity': integrity}}
write('egret-sample', json.dumps({'name': 'egret-sample', 'dist-tags': {'latest': '1.0.0'}, 'versions': {'1.0.0': version}}))

archive = tar({'egret-sample-1.0.0/Cargo.toml': '[package]\\nname = \"egret-sample\"\\nversion = \"1.0.0\"\\nedition = \"2021\"\\n',
    'egret-sample-1.0.0/src/lib.rs': 'pub const NAME: &str = \"sample\";'})
write('crates/egret-sample-1.0.0.crate', archive)
write('index/config.json', json.dumps({'dl': url + '/crates/{crate}-{version}.crate'}))
write('index/eg/re/egret-sample', json.dumps({'name': 'egret-sample', 'vers': '1.0.0', 'deps': [], 'features': {}, 'yanked': False,
    'cksum': hashlib.sha256(archive).hexdigest()}) + '\\n')
";

impl Registry {
    /// Serves `secure.example`.
    pub(super) fn start() -> Self {
        let (folder, authority) = (Folder::new(), Authority::new());
        let certificate = authority.issue(&folder, "registry", &["secure.example"]);
        let ca = authority.write(&folder, "registry-ca.pem");
        let nginx = Nginx::start(&folder, "", &certificate);
        let registry = Self { folder, nginx, ca };
        let mut python = command_at(packaged("/usr/bin/python3"));
        python.args(["-c", FILES]).arg(registry.folder.path().join("www")).arg(registry.url(""));
        run(&mut python).succeeded();
        registry
    }

    /// The address of a path.
    pub(super) fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.authority())
    }

    /// As a CONNECT names it.
    pub(super) fn authority(&self) -> String {
        format!("secure.example:{}", self.nginx.tls().port())
    }
}
