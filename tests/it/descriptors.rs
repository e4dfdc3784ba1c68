//! No descriptors left: what cannot be served waits or is refused, and everything goes on afterwards.

use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::egret::command;
use crate::support::origin::Origin;
use crate::support::{Egret, Folder, client, eventually};

const OPEN_FILES_MAX: usize = 64;
/// Kept for the operator: an eighth.
const RESERVED: usize = 8;
const USABLE: usize = OPEN_FILES_MAX - RESERVED;

/// A proxy that can open few files, and logs to a file.
fn limited(folder: &Folder) -> Egret {
    let settings = format!(
        "listeners: [{{ name: proxy, address: \"127.0.0.1:0\" }}]\naddresses: {{ allow: [127.0.0.0/8] }}\n\
         mesh: {{ accessLogFile: {} }}\n",
        folder.path().join("access.log").display()
    );
    let settings = folder.write("egret.yaml", &settings);
    let plain =
        command(&["run".as_ref(), "--admin".as_ref(), "127.0.0.1:0".as_ref(), "-c".as_ref(), settings.as_os_str()]);
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("ulimit -n {OPEN_FILES_MAX} && exec \"$0\" \"$@\"")]);
    shell.arg(plain.get_program()).args(plain.get_args());
    for (name, value) in plain.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    Egret::spawn_command(shell)
}

/// Time on a processor, of user and kernel.
fn cpu_time(egret: &Egret) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", egret.pid())).unwrap();
    let ticks = stat.rsplit(") ").next().unwrap().split(' ').skip(11).take(2);
    let ticks: u64 = ticks.map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10) // USER_HZ is 100 wherever we run
}

/// Descriptors that count against the limit: whoever started us may have left others open with higher numbers.
fn open_files(egret: &Egret) -> usize {
    egret.open_files().iter().filter(|number| **number < OPEN_FILES_MAX).count()
}

#[test]
fn connections_beyond_the_limit_wait_until_others_are_closed() {
    let origin = Origin::echo();
    let folder = Folder::new();
    let mut egret = limited(&folder);
    let crowd: Vec<TcpStream> = (0..OPEN_FILES_MAX + 20).map(|_| client::dial(egret.proxy())).collect();
    egret.stderr.wait_for("cannot accept");
    // All, the one that waits, and for a moment the one that it tries to become.
    assert!((USABLE + 1..=USABLE + 2).contains(&open_files(&egret)), "{}", open_files(&egret));
    let (exhausted, cpu) = (Instant::now(), cpu_time(&egret));
    eventually("many tries to accept have failed", || exhausted.elapsed() > Duration::from_secs(2));
    assert!(cpu_time(&egret) - cpu < Duration::from_millis(300), "no loop spins: {:?}", cpu_time(&egret) - cpu);
    assert_eq!(client::get_from(egret.admin(), "/healthz").status, 200, "the operator is answered");
    assert!(egret.metric("egret_connections_open") > 10);
    let warnings = egret.stderr.so_far().iter().filter(|line| line.contains("cannot accept")).count();
    assert_eq!(warnings, 1, "not one for each try");
    drop(crowd);
    let mut tunnel = client::tunnel(egret.proxy(), origin.address);
    assert!(client::echoes(&mut tunnel, b"served again"));
    drop(tunnel);
    let target = origin.address.to_string();
    let log = folder.path().join("access.log");
    eventually("the flow is logged", || std::fs::read_to_string(&log).is_ok_and(|log| log.contains(&target)));
    eventually("nothing is kept", || open_files(&egret) < OPEN_FILES_MAX / 2);
    assert!(egret.is_running());
}

#[test]
fn a_log_and_a_configuration_are_opened_with_the_descriptors_kept_for_them() {
    let origin = Origin::echo();
    let folder = Folder::new();
    let egret = limited(&folder);
    let (log, moved) = (folder.path().join("access.log"), folder.path().join("access.log.1"));
    let mut first = client::tunnel(egret.proxy(), origin.address);
    assert!(client::echoes(&mut first, b"before"));
    let crowd: Vec<TcpStream> = (0..OPEN_FILES_MAX).map(|_| client::dial(egret.proxy())).collect();
    egret.stderr.wait_for("cannot accept");
    std::fs::rename(&log, &moved).unwrap();
    egret.signal(Signal::USR1);
    eventually("the log is opened anew", || log.exists());
    let line = egret.reload();
    assert!(!line.contains("not reloaded"), "{line}");
    assert!(client::echoes(&mut first, b"tunnels are not touched"));
    drop(crowd);
    eventually("there is room again", || open_files(&egret) < OPEN_FILES_MAX / 2);
    let second = client::tunnel(egret.proxy(), origin.address);
    drop((first, second));
    let lines = |file: &Path| std::fs::read_to_string(file).unwrap_or_default().lines().count();
    eventually("both tunnels are logged", || lines(&log) + lines(&moved) >= 2);
    assert_eq!((lines(&moved), lines(&log)), (0, 2), "the log is the new file as soon as it can be opened");
    let line = egret.reload();
    assert!(!line.contains("not reloaded"), "{line}");
}

#[test]
fn a_tunnel_for_which_no_descriptor_is_left_is_refused_as_our_own_limit() {
    let origin = Origin::echo();
    let folder = Folder::new();
    let egret = limited(&folder);
    let mut tunnels = Vec::new();
    // Each tunnel takes two: if the free ones are odd in number, the last client is accepted and cannot be connected. If they are
    // even, a connection without a tunnel makes them odd.
    let mut head = String::new();
    let mut idle = None;
    for _ in 0..2 {
        while open_files(&egret) + 2 <= USABLE {
            tunnels.push(client::tunnel(egret.proxy(), origin.address));
        }
        if open_files(&egret) < USABLE {
            head = client::connect(egret.proxy(), origin.address).1;
            break;
        }
        tunnels.pop();
        eventually("the tunnel is closed", || open_files(&egret) + 2 <= USABLE);
        let before = open_files(&egret);
        idle = Some(client::dial(egret.proxy()));
        eventually("it is accepted", || open_files(&egret) > before);
    }
    assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("error=connection_limit_reached"), "{head}");
    drop((tunnels, idle));
    eventually("there is room again", || open_files(&egret) < OPEN_FILES_MAX / 2);
    let mut tunnel = client::tunnel(egret.proxy(), origin.address);
    assert!(client::echoes(&mut tunnel, b"served again"));
    let log = folder.path().join("access.log");
    eventually("the refusal is logged", || std::fs::read_to_string(&log).is_ok_and(|log| log.contains(" 503 UO ")));
}
