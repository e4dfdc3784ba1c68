//! What the service manager is told (sd_notify).

use std::os::unix::net::UnixDatagram;

use rustix::process::Signal;

use crate::support::egret::command;
use crate::support::{Egret, Folder, PATIENCE};

/// The next message that is no sign of life.
fn next(manager: &UnixDatagram) -> String {
    loop {
        let mut bytes = [0; 4096];
        let length = manager.recv(&mut bytes).expect("a message");
        let message = String::from_utf8(bytes[..length].to_vec()).unwrap();
        if message.trim() != "WATCHDOG=1" {
            return message;
        }
    }
}

#[test]
fn the_service_manager_is_told_of_start_reload_and_end() {
    let folder = Folder::with_settings("listeners: [{ address: \"127.0.0.1:0\" }]\n");
    let socket = folder.path().join("notify");
    let manager = UnixDatagram::bind(&socket).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let settings = folder.settings();
    let mut run = command(&["run", "--admin", "127.0.0.1:0", "-c", settings.to_str().unwrap()]);
    let mut egret = Egret::spawn_command({
        run.env("NOTIFY_SOCKET", &socket).env_remove("WATCHDOG_USEC");
        run
    });
    let ready = next(&manager);
    let expected = format!("READY=1\nSTATUS=listening proxy={} admin={}\n", egret.proxy(), egret.admin());
    assert_eq!(ready, expected);
    for text in ["listeners: [{ address: \"127.0.0.1:0\" }]\ndrain: 1s\n", "nonsense: 1\n"] {
        folder.write("egret.yaml", text);
        egret.signal(Signal::HUP);
        let reloading = next(&manager);
        let time = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect("one message with its time");
        assert!(time.trim().parse::<u64>().unwrap() > 0);
        assert!(next(&manager).starts_with("READY=1\n"), "whatever came of it");
    }
    egret.signal(Signal::TERM);
    // A change of the file may have been noticed too, and told first.
    while next(&manager) != "STOPPING=1\nSTATUS=draining\n" {}
    assert_eq!(egret.wait().code(), Some(0));
}

#[test]
fn the_watchdog_hears_of_it_twice_in_its_time() {
    let folder = Folder::new();
    let socket = folder.path().join("notify");
    let manager = UnixDatagram::bind(&socket).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut run = command(&["run", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    run.env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", "200000");
    let _egret = Egret::spawn_command(run);
    let started = std::time::Instant::now();
    let mut signs = 0;
    while signs < 5 {
        let mut bytes = [0; 4096];
        let length = manager.recv(&mut bytes).expect("a message");
        signs += usize::from(&bytes[..length] == b"WATCHDOG=1\n");
    }
    assert!(started.elapsed().as_millis() >= 300, "five signs are four pauses of 100 ms");
}
