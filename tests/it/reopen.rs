//! Rotation of the access log while flows are being logged.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::process::Signal;

use crate::support::origin::{HELLO, Origin};
use crate::support::{Egret, Folder, client, eventually};

const ROTATIONS: usize = 10;
const CLIENTS: usize = 4;

#[test]
fn no_line_is_lost_or_cut_when_the_log_is_rotated_under_load() {
    let origin = Origin::http(HELLO);
    let folder = Folder::new();
    let log = folder.path().join("access.log");
    let settings = format!(
        "listeners: [{{ name: proxy, address: \"127.0.0.1:0\" }}]\naddresses: {{ allow: [127.0.0.0/8] }}\n\
         mesh: {{ accessLogFile: {} }}\n",
        log.display()
    );
    let egret = Egret::with_settings(&folder.write("egret.yaml", &settings));
    let stop = Arc::new(AtomicBool::new(false));
    let asked = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let (proxy, stop, asked, origin) = (egret.proxy(), stop.clone(), asked.clone(), origin.address);
            std::thread::spawn(move || {
                let mut stream = client::dial(proxy);
                let mut count = 0;
                while !stop.load(Ordering::Relaxed) {
                    let url = format!("http://{origin}/{client}/{count}/");
                    assert_eq!(client::ask(&mut stream, "GET", &url).status, 200);
                    count += 1;
                    asked.fetch_add(1, Ordering::Relaxed);
                }
                count
            })
        })
        .collect();
    let mut files = Vec::new();
    for rotation in 0..ROTATIONS {
        let before = asked.load(Ordering::Relaxed);
        eventually("flows go on", || asked.load(Ordering::Relaxed) > before + 20);
        let moved = folder.path().join(format!("access.log.{rotation}"));
        std::fs::rename(&log, &moved).unwrap();
        egret.signal(Signal::USR1);
        eventually("the file is there again", || log.exists());
        files.push(moved);
    }
    stop.store(true, Ordering::Relaxed);
    let counts: Vec<usize> = clients.into_iter().map(|client| client.join().unwrap()).collect();
    files.push(log);
    let total: usize = counts.iter().sum();
    eventually("all lines are written", || lines(&files).len() >= total);
    let lines = lines(&files);
    assert_eq!(lines.len(), total);
    for (client, count) in counts.into_iter().enumerate() {
        for n in [0, count / 2, count - 1] {
            let path = format!("/{client}/{n}/ ");
            assert_eq!(lines.iter().filter(|line| line.contains(&path)).count(), 1, "{path}");
        }
    }
    assert!(lines.iter().all(|line| line.starts_with('[') && line.ends_with(" allow_any")), "no line is cut");
    assert_eq!(egret.metric("egret_access_log_lines_dropped_total"), 0);
}

fn lines(files: &[PathBuf]) -> Vec<String> {
    let read = |file: &PathBuf| std::fs::read_to_string(file).unwrap_or_default();
    files.iter().flat_map(|file| read(file).lines().map(str::to_owned).collect::<Vec<_>>()).collect()
}
