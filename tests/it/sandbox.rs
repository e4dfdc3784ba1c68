//! What landlock takes from the running process, and that reloads and rotations go on with what it leaves.

use std::os::unix::fs::symlink;

use rustix::process::Signal;

use crate::support::origin::{HELLO, Origin};
use crate::support::{Egret, Folder, client, eventually};

fn settings(more: &str) -> String {
    format!(
        "listeners: [{{ name: proxy, address: \"127.0.0.1:0\" }}]\naddresses: {{ allow: [127.0.0.0/8] }}\n\
         mesh: {{ outboundTrafficPolicy: {{ mode: REGISTRY_ONLY }}, accessLogFile: log/access.log }}\n{more}\n"
    )
}

/// A folder with room for a log, and what a sandbox leaves to a proxy that starts with it.
fn folder(more: &str) -> Folder {
    let folder = Folder::with_settings(&settings(more));
    folder.write("log/earlier", "");
    folder
}

fn entry(name: &str, port: u16) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{ name: {name} }}\nspec:\n  hosts: [{name}.example]\n  \
         addresses: [127.0.0.1]\n  resolution: NONE\n  ports: [{{ number: {port}, name: tcp, protocol: TCP }}]\n"
    )
}

fn status(egret: &Egret, line: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{}/status", egret.pid())).unwrap();
    let found = status.lines().find_map(|found| found.strip_prefix(line)).unwrap();
    found.trim().to_owned()
}

fn is_confined(egret: &Egret) -> bool {
    egret.stderr.so_far().iter().any(|line| line.contains("none is executed") || line.contains("confined=true"))
}

#[test]
fn one_line_says_what_came_of_it() {
    let egret = Egret::start();
    let lines = egret.stderr.so_far();
    let said: Vec<&String> = lines.iter().filter(|line| line.contains("sandbox")).collect();
    assert_eq!(said.len(), 1, "{lines:?}");
    if is_confined(&egret) {
        assert_eq!(status(&egret, "NoNewPrivs:"), "1");
    }
    let off = folder("sandbox: off");
    let egret = Egret::with_settings(&off.settings());
    assert!(egret.stderr.so_far().iter().any(|line| line.contains("the settings turn it off")));
    assert_eq!(status(&egret, "NoNewPrivs:"), "0");
}

#[test]
fn reloads_go_on_within_the_folders_that_were_left() {
    let origin = Origin::http(HELLO);
    let port = origin.address.port();
    let folder = folder("resources: [rules]");
    folder.write("rules/first.yaml", &entry("first", 1));
    let egret = Egret::with_settings(&folder.settings());
    let url = format!("http://{}/", origin.address);
    assert_eq!(client::get(egret.proxy(), &url).status, 403);
    // A file that was not there, renamed into place.
    folder.write("rules/second.yaml", &entry("second", port));
    assert!(!egret.reload().contains("not reloaded"));
    assert_eq!(client::get(egret.proxy(), &url).status, 200);
    // Folders swapped by a link, as Kubernetes mounts a ConfigMap.
    let root = folder.path().join("rules");
    for (generation, number) in [("..1", port), ("..2", 1)] {
        folder.write(&format!("rules/{generation}/mounted.yaml"), &entry("mounted", number));
    }
    std::fs::remove_file(root.join("second.yaml")).unwrap();
    symlink("..1", root.join("..data")).unwrap();
    symlink("..data/mounted.yaml", root.join("mounted.yaml")).unwrap();
    assert!(!egret.reload().contains("not reloaded"));
    assert_eq!(client::get(egret.proxy(), &url).status, 200);
    symlink("..2", root.join("..new")).unwrap();
    std::fs::rename(root.join("..new"), root.join("..data")).unwrap();
    eventually("the swap is noticed and refuses", || client::get(egret.proxy(), &url).status == 403);
    // The log is moved away and opened anew.
    let log = folder.path().join("log/access.log");
    std::fs::rename(&log, folder.path().join("log/access.log.1")).unwrap();
    egret.signal(Signal::USR1);
    eventually("the log is there again", || log.exists());
}

#[test]
fn a_reload_that_leaves_the_folders_is_refused_and_says_why() {
    let elsewhere = Folder::new();
    let rules = elsewhere.write("rules.yaml", &entry("other", 1));
    let folder = folder("");
    let egret = Egret::with_settings(&folder.settings());
    if !is_confined(&egret) {
        return; // nothing was taken: the kernel has no landlock, which the log says
    }
    let outside = format!("resources: [{}]", rules.display());
    folder.write("egret.yaml", &settings(&outside));
    assert!(egret.reload().contains("not reloaded, the old configuration stays"));
    egret.stderr.wait_for("a restart takes others");
    let log = folder.path().join("access.log");
    folder.write("egret.yaml", &settings("").replace("log/access.log", &log.display().to_string()));
    assert!(egret.reload().contains("not reloaded"));
    assert!(!log.exists(), "a folder that is only read");
    // What was refused is taken by a process that starts with it.
    folder.write("egret.yaml", &settings(&outside));
    drop(egret);
    let egret = Egret::with_settings(&folder.settings());
    assert!(is_confined(&egret) && !egret.reload().contains("not reloaded"));
}

#[test]
fn what_is_required_holds_or_the_process_does_not_start() {
    let folder = folder("sandbox: required");
    let mut command = crate::support::egret::command(&["run", "--admin", "off", "-c"]);
    command.arg(folder.settings());
    let egret = Egret::spawn_command(command);
    assert!(egret.stderr.so_far().iter().any(|line| line.contains("none is executed")), "this kernel has landlock");
}
