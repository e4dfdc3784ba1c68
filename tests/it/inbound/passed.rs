//! Sockets that were bound by whoever started the proxy, as systemd does it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::Command;

use crate::support::client::{dial, echoes, get, tunnel};
use crate::support::egret::{command, egret};
use crate::support::origin::{HELLO, Origin, read_head};
use crate::support::peer::{self, free_ports};
use crate::support::{Egret, Folder, PATIENCE, eventually};

/// Binds two TCP sockets named `web` and a unix socket named `local`, and becomes the program that follows.
const ACTIVATE: &str = "
import os, socket, sys
sockets = [socket.create_server(('127.0.0.1', 0)) for _ in range(2)]
unix = socket.socket(socket.AF_UNIX)
unix.bind(sys.argv[1])
unix.listen()
passed = [os.dup(s.fileno()) for s in sockets + [unix]]
high = [os.dup2(fd, 100 + n) for n, fd in enumerate(passed)]
for n, fd in enumerate(high):
    os.dup2(fd, 3 + n)
    os.close(fd)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='3', LISTEN_FDNAMES='web:web:local')
os.execv(sys.argv[2], sys.argv[2:])
";

fn activated(folder: &Folder, settings: &str) -> Egret {
    folder.write("egret.yaml", settings);
    let mut python = peer::command("python3");
    python.args(["-c", ACTIVATE]).arg(folder.path().join("local.sock")).arg(env!("CARGO_BIN_EXE_egret"));
    python.args(["run", "--admin", "127.0.0.1:0", "-c"]).arg(folder.settings());
    Egret::spawn_command(python)
}

const SETTINGS: &str = "
listeners:
  - { name: proxy, address: \"fd:web\", clients: { from: [127.0.0.0/8] } }
  - { name: second, address: \"fd:web\", clients: { from: [127.0.0.0/8] } }
  - { name: file, address: \"fd:local\", clients: { open: true } }
addresses: { allow: [127.0.0.0/8] }
";

#[test]
fn listeners_take_passed_sockets_by_name() {
    let folder = Folder::new();
    let egret = activated(&folder, SETTINGS);
    let origin = Origin::http(HELLO);
    assert_ne!(egret.address("proxy"), egret.address("second"));
    for name in ["proxy", "second"] {
        assert_eq!(get(egret.address(name), &format!("http://{}/", origin.address)).body, b"hello");
    }
    let mut stream = UnixStream::connect(folder.path().join("local.sock")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET http://{0}/ HTTP/1.1\r\nHost: {0}\r\n\r\n", origin.address).unwrap();
    assert!(read_head(&mut stream).expect("an answer").starts_with("HTTP/1.1 200 "));
}

#[test]
fn a_passed_socket_outlives_the_listener_that_used_it() {
    let folder = Folder::new();
    let mut egret = activated(&folder, SETTINGS);
    let (echo, second) = (Origin::echo(), egret.address("second"));
    let mut open = tunnel(second, echo.address);
    folder.write(
        "egret.yaml",
        &SETTINGS.replace("  - { name: second, address: \"fd:web\", clients: { from: [127.0.0.0/8] } }\n", ""),
    );
    assert!(egret.reload().contains("reloaded"));
    assert!(echoes(&mut open, b"open tunnels stay"));
    // Nobody accepts now, and the kernel keeps who connects until somebody does.
    let mut waiting = dial(second);
    write!(waiting, "CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n", echo.address).unwrap();
    folder.write("egret.yaml", SETTINGS);
    assert!(egret.reload().contains("reloaded"));
    assert!(read_head(&mut waiting).expect("an answer").starts_with("HTTP/1.1 200 "));
    assert_eq!(egret.stop(), Some(0));
    assert!(folder.path().join("local.sock").exists(), "the file is not ours to remove");
}

#[test]
fn a_name_that_was_not_passed_is_named() {
    let out = egret(&["run", "--listen", "fd:web", "--admin", "off"]);
    assert_eq!(out.status.code(), Some(78), "it may be reachable, so it is an open proxy: {out:?}");
    let folder = Folder::with_settings("listeners: [{ address: \"fd:web\", clients: { open: true } }]\nadmin: off\n");
    let out = command(&["run".as_ref(), "-c".as_ref(), folder.settings().as_os_str()]).output().unwrap();
    assert_eq!(out.status.code(), Some(69), "{out:?}");
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(said.contains("cannot listen on fd:web: no sockets were passed to this process (LISTEN_FDS)"), "{said}");
}

#[test]
fn systemd_socket_activate_starts_it_with_the_first_connection() {
    let folder = Folder::with_settings(
        "listeners: [{ address: \"fd:web\", clients: { open: true } }]\naddresses: { allow: [127.0.0.0/8] }\nadmin: off\n",
    );
    let [port] = free_ports();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let mut activate = peer::command("systemd-socket-activate");
    activate.arg("-l").arg(address.to_string()).arg("--fdname=web");
    activate.arg(env!("CARGO_BIN_EXE_egret")).args(["run", "-c"]).arg(folder.settings());
    let _started = Started::new(activate);
    let mut first = None;
    eventually("the socket is there", || {
        first = TcpStream::connect(address).ok();
        first.is_some()
    });
    let mut first = first.unwrap();
    first.set_read_timeout(Some(PATIENCE)).unwrap();
    let origin = Origin::http(HELLO);
    write!(first, "GET http://{0}/ HTTP/1.1\r\nHost: {0}\r\n\r\n", origin.address).unwrap();
    assert!(read_head(&mut first).expect("the connection that started it").starts_with("HTTP/1.1 200 "));
    first.read_exact(&mut [0; 5]).unwrap();
}

/// Ended when dropped.
struct Started(std::process::Child);

impl Started {
    fn new(mut command: Command) -> Self {
        use std::process::Stdio;
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
