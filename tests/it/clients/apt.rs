//! apt, which pipelines its requests to a proxy; and a whole repository, in the clear and behind TLS.

use std::collections::HashSet;
use std::path::Path;
use std::process::Command;

use super::{REFUSED, REFUSING, TUNNELLED, World};
use crate::support::certificates::Authority;
use crate::support::nginx::Nginx;
use crate::support::peer::{command, command_at, packaged, run};

#[test]
fn pipelined_requests_are_answered_in_order() {
    let world = World::new();
    let proxy = format!("Acquire::http::Proxy={}", world.proxy());
    let mut apt = command_at(packaged("/usr/lib/apt/apt-helper"));
    apt.args(["-o", &proxy, "-o", "APT::Sandbox::User=", "-o", "Acquire::http::Pipeline-Depth=10", "download-file"]);
    let names: Vec<String> = (0..20).map(|n| format!("file-{n}")).collect();
    for name in &names {
        world.folder.write(&format!("www/{name}"), &format!("{name}\n").repeat(1000));
    }
    let certificate = Authority::new().issue(&world.folder, "origin", &["plain.example"]);
    let nginx = Nginx::start(&world.folder, "", &certificate);
    for name in &names {
        let target = world.folder.path().join("got").join(name);
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        apt.arg(format!("http://plain.example:{}/{name}", nginx.plain().port())).arg(target).arg("");
    }
    run(&mut apt).succeeded();
    let mut connections = HashSet::new();
    for name in &names {
        let got = std::fs::read_to_string(world.folder.path().join("got").join(name)).unwrap();
        assert!(got == format!("{name}\n").repeat(1000), "{name}: {} bytes", got.len());
        let record = world.egret.record(&format!("/{name}\""));
        record.shows(&[("response_code", "200"), ("response_flags", "-"), ("bytes_sent", &got.len().to_string())]);
        connections.insert(record.get("downstream_remote_address"));
    }
    assert_eq!(connections.len(), 1, "no connection had to be given up");
}

/// apt-get with folders and sources of its own.
fn apt_get(world: &World, source: &str, ca: &Path) -> Command {
    let root = world.folder.path().join("apt");
    for folder in ["state/lists/partial", "cache/archives/partial", "etc", "got"] {
        std::fs::create_dir_all(root.join(folder)).unwrap();
    }
    let sources = world.folder.write("apt/etc/sources.list", &format!("deb [trusted=yes] {source} ./\n"));
    let mut apt = command("apt-get");
    let status = world.folder.write("apt/state/status", "");
    apt.current_dir(root.join("got"));
    let options = [
        ("Dir::Etc::SourceList", sources.display().to_string()),
        ("Dir::Etc::SourceParts", "/dev/null".to_owned()),
        ("Dir::Etc::Parts", "/dev/null".to_owned()),
        ("Dir::State", root.join("state").display().to_string()),
        ("Dir::State::status", status.display().to_string()),
        ("Dir::Cache", root.join("cache").display().to_string()),
        ("APT::Sandbox::User", String::new()),
        ("APT::Architecture", "amd64".to_owned()),
        ("Acquire::Languages", "none".to_owned()),
        ("Acquire::Retries", "0".to_owned()),
        ("Acquire::http::Proxy", world.proxy()),
        ("Acquire::https::Proxy", world.proxy()),
        ("Acquire::https::CaInfo", ca.display().to_string()),
    ];
    for (name, value) in options {
        apt.args(["-o", &format!("{name}={value}")]);
    }
    apt
}

/// A flat repository with one package in `www/repo`, served by nginx.
fn repository(world: &World) -> (Nginx, std::path::PathBuf) {
    let control = "Package: egret-sample\nVersion: 1.0.0\nArchitecture: all\nMaintainer: nobody <nobody@plain.example>\n\
                   Description: a sample\n";
    let tree = world.folder.write("tree/DEBIAN/control", control);
    let repo = world.folder.write("www/repo/README", "").parent().unwrap().to_owned();
    let deb = repo.join("egret-sample_1.0.0_all.deb");
    run(command("dpkg-deb")
        .args(["--build", "--root-owner-group"])
        .arg(tree.parent().unwrap().parent().unwrap())
        .arg(&deb))
    .succeeded();
    let sum = run(command("sha256sum").arg(&deb)).succeeded();
    let sum = sum.split(' ').next().unwrap();
    let size = std::fs::metadata(&deb).unwrap().len();
    let entry = format!("{control}Filename: ./egret-sample_1.0.0_all.deb\nSize: {size}\nSHA256: {sum}\n");
    world.folder.write("www/repo/Packages", &entry);
    let authority = Authority::new();
    let certificate = authority.issue(&world.folder, "repository", &["plain.example", "secure.example"]);
    let ca = authority.write(&world.folder, "repository-ca.pem");
    (Nginx::start(&world.folder, "", &certificate), ca)
}

#[test]
fn a_package_comes_from_a_repository() {
    let world = World::new();
    let (nginx, ca) = repository(&world);
    for source in [
        format!("http://plain.example:{}/repo", nginx.plain().port()),
        format!("https://secure.example:{}/repo", nginx.tls().port()),
    ] {
        let got = world.folder.path().join("apt/got/egret-sample_1.0.0_all.deb");
        run(apt_get(&world, &source, &ca).arg("update")).succeeded();
        run(apt_get(&world, &source, &ca).args(["download", "egret-sample"])).succeeded();
        assert!(std::fs::read(&got).unwrap().starts_with(b"!<arch>"), "{source}");
        std::fs::remove_file(got).unwrap();
    }
    world.egret.record("egret-sample_1.0.0_all.deb\"").shows(&[("response_code", "200"), ("response_flags", "-")]);
    world.egret.record("CONNECT").shows(TUNNELLED);
}

#[test]
fn a_refusal_shows_its_phrase() {
    let world = World::with(REFUSING);
    let (nginx, ca) = repository(&world);
    let plain = format!("http://plain.example:{}/repo", nginx.plain().port());
    let ran = run(apt_get(&world, &plain, &ca).args(["-o", "APT::Update::Error-Mode=any", "update"]));
    assert_eq!(ran.code, Some(100), "{ran:?}");
    assert!((ran.stdout + &ran.stderr).contains("403  Destination Not Allowed"), "{}", ran.stderr);
    let secure = format!("https://secure.example:{}/repo", nginx.tls().port());
    let ran = run(apt_get(&world, &secure, &ca).args(["-o", "APT::Update::Error-Mode=any", "update"]));
    assert!((ran.stdout + &ran.stderr).contains("403 Destination Not Allowed"), "{}", ran.stderr);
    world.egret.record("CONNECT").shows(REFUSED);
}
