//! git: smart HTTP in absolute-form, and a dumb repository behind TLS by CONNECT.

use std::path::Path;
use std::process::Command;

use super::{REFUSED, REFUSING, World};
use crate::support::Folder;
use crate::support::certificates::Authority;
use crate::support::nginx::Nginx;
use crate::support::peer::{Peer, command, run};

/// git without the configuration of whoever runs the tests.
fn git(folder: &Path) -> Command {
    let mut git = command("git");
    git.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_TERMINAL_PROMPT", "0");
    git.args(["-c", "user.name=test", "-c", "user.email=test@plain.example", "-c", "init.defaultBranch=main"]);
    git.arg("-C").arg(folder);
    git
}

/// A bare repository with one commit, in `NAME/repo.git`.
fn repository(folder: &Folder, name: &str) {
    let work = folder.write(&format!("{name}/work/file"), &"line\n".repeat(20_000));
    let work = work.parent().unwrap();
    run(git(work).args(["init", "-q"])).succeeded();
    run(git(work).args(["add", "."])).succeeded();
    run(git(work).args(["commit", "-q", "-m", "first"])).succeeded();
    let outer = work.parent().unwrap();
    run(git(outer).args(["clone", "-q", "--bare", "work", "repo.git"])).succeeded();
    run(git(&outer.join("repo.git")).args(["update-server-info"])).succeeded();
    run(git(&outer.join("repo.git")).args(["config", "http.receivepack", "true"])).succeeded();
}

/// `git http-backend` behind Python's HTTP server, as CGI.
const BACKEND: &str = "
import http.server, os, subprocess, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def serve(self):
        path, _, query = self.path.partition('?')
        if self.headers.get('Transfer-Encoding') == 'chunked':
            body = b''
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get('Content-Length', 0)))
        env = dict(os.environ, GIT_PROJECT_ROOT=sys.argv[2], GIT_HTTP_EXPORT_ALL='1', PATH_INFO=path, QUERY_STRING=query,
            REQUEST_METHOD=self.command, CONTENT_TYPE=self.headers.get('Content-Type', ''), REMOTE_USER='test',
            HTTP_CONTENT_ENCODING=self.headers.get('Content-Encoding', ''), CONTENT_LENGTH=str(len(body)),
            GIT_PROTOCOL=self.headers.get('Git-Protocol', ''))
        head, _, answer = subprocess.run(['git', 'http-backend'], input=body, env=env, capture_output=True).stdout.partition(b'\\r\\n\\r\\n')
        fields = [line.split(': ', 1) for line in head.decode().split('\\r\\n')]
        self.send_response(int(dict(fields).get('Status', '200').split()[0]))
        for name, value in fields:
            if name != 'Status': self.send_header(name, value)
        self.send_header('Content-Length', str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
    do_GET = do_POST = serve
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), Handler).serve_forever()
";

#[test]
fn smart_http_clones_and_pushes() {
    let world = World::new();
    repository(&world.folder, "smart");
    let root = world.folder.path().join("smart");
    let server = Peer::start(|[port]: [u16; 1]| {
        let mut python = command("python3");
        python.env("GIT_CONFIG_GLOBAL", "/dev/null").args(["-c", BACKEND, &port.to_string()]).arg(&root);
        python
    });
    let url = format!("http://plain.example:{}/repo.git", server.address().port());
    let proxy = format!("http.proxy={}", world.proxy());
    run(git(&root).args(["-c", &proxy, "clone", "-q", &url, "copy"])).succeeded();
    let copy = root.join("copy");
    let text: String = (0..200_000).map(|n| format!("{}\n", n * 7919 % 1_000_003)).collect(); // over http.postBuffer: chunked
    world.folder.write("smart/copy/more", &text);
    run(git(&copy).args(["add", "."])).succeeded();
    run(git(&copy).args(["commit", "-q", "-m", "second"])).succeeded();
    run(git(&copy).args(["-c", &proxy, "-c", "http.postBuffer=65536", "push", "-q", "origin", "HEAD"])).succeeded();
    let log = run(git(&root.join("repo.git")).args(["log", "--format=%s", "main"])).succeeded();
    assert_eq!(log, "second\nfirst\n");
    let record = world.egret.record("/git-upload-pack\"");
    record.shows(&[("method", "POST"), ("response_code", "200"), ("response_flags", "-")]);
    world.egret.record("/git-receive-pack\"").shows(&[("response_code", "200"), ("response_flags", "-")]);
}

#[test]
fn a_dumb_repository_behind_tls_is_cloned_through_connect() {
    let world = World::new();
    let authority = Authority::new();
    let folder = Folder::new();
    repository(&folder, "www");
    let certificate = authority.issue(&folder, "origin", &["secure.example"]);
    let ca = authority.write(&folder, "ca.pem");
    let nginx = Nginx::start(&folder, "", &certificate);
    let url = format!("https://secure.example:{}/repo.git", nginx.tls().port());
    let proxy = format!("http.proxy={}", world.proxy());
    let mut clone = git(world.folder.path());
    run(clone.env("GIT_SSL_CAINFO", ca).args(["-c", &proxy, "clone", "-q", &url, "copy"])).succeeded();
    let file = std::fs::read_to_string(world.folder.path().join("copy/file")).unwrap();
    assert_eq!(file.len(), 100_000);
    world.egret.record("CONNECT").shows(&[("response_code", "200"), ("upstream_cluster", "PassthroughCluster")]);
}

#[test]
fn a_refused_clone_says_403() {
    let world = World::with(REFUSING);
    let proxy = format!("http.proxy={}", world.proxy());
    let url = world.https("/repo.git");
    let ran = run(git(world.folder.path()).args(["-c", &proxy, "clone", "-q", &url, "copy"]));
    assert_eq!(ran.code, Some(128), "{ran:?}");
    assert!(ran.stderr.contains("CONNECT tunnel failed, response 403"), "{ran:?}");
    world.egret.record("CONNECT").shows(REFUSED);
}
