//! Listeners that are files.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use crate::support::egret::command;
use crate::support::origin::{HELLO, Origin, read_head};
use crate::support::peer::{self, run};
use crate::support::{Egret, Folder, PATIENCE, Setup, eventually};

fn start(folder: &Folder, more: &str) -> (Egret, PathBuf) {
    let path = folder.path().join("proxy.sock");
    let listeners = format!("{{ name: proxy, address: \"unix:{}\", {more} }}", path.display());
    (Setup { listeners: &listeners, ..Setup::default() }.start(folder), path)
}

fn dial(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn connect(path: &Path, target: impl std::fmt::Display) -> UnixStream {
    let mut stream = dial(path);
    write!(stream, "CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n").unwrap();
    let head = read_head(&mut stream).expect("an answer");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    stream
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn clients_of_a_file_are_served_and_logged_without_an_address() {
    let folder = Folder::new();
    let (mut egret, path) = start(&folder, "");
    assert_eq!(mode(&path), 0o600);
    let (echo, origin) = (Origin::echo(), Origin::http(HELLO));
    let mut tunnel = connect(&path, echo.address);
    tunnel.write_all(&[7; 100_000]).unwrap();
    let mut back = vec![0; 100_000];
    tunnel.read_exact(&mut back).unwrap();
    tunnel.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(tunnel.read(&mut [0]).unwrap(), 0, "a half-close goes through");
    let record = egret.record("CONNECT");
    record.shows(&[("downstream_remote_address", "@"), ("downstream_local_address", path.to_str().unwrap())]);
    let mut stream = dial(&path);
    for _ in 0..2 {
        write!(stream, "GET http://{0}/ HTTP/1.1\r\nHost: {0}\r\n\r\n", origin.address).unwrap();
        assert!(read_head(&mut stream).expect("an answer").starts_with("HTTP/1.1 200 "));
        stream.read_exact(&mut [0; 5]).unwrap();
    }
    drop(stream);
    assert_eq!(egret.stop(), Some(0));
    assert!(!path.exists(), "the file goes with the process");
}

#[test]
fn python_speaks_to_a_file() {
    const SCRIPT: &str = "
import http.client, socket, sys
class Connection(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(15)
        self.sock.connect(sys.argv[1])
connection = Connection('localhost')
for _ in range(2):
    connection.request('GET', sys.argv[2])
    answer = connection.getresponse()
    print(answer.status, answer.read().decode())
";
    let folder = Folder::new();
    let (_egret, path) = start(&folder, "");
    let origin = Origin::http(HELLO);
    let mut python = peer::command("python3");
    let ran = run(python.args(["-c", SCRIPT]).arg(&path).arg(format!("http://{}/", origin.address)));
    assert_eq!(ran.succeeded(), "200 hello\n200 hello\n");
}

#[test]
fn a_file_that_a_dead_process_left_is_replaced_and_a_live_one_is_not() {
    let folder = Folder::new();
    let path = folder.path().join("proxy.sock");
    drop(UnixListener::bind(&path).unwrap());
    let (egret, path) = start(&folder, "");
    connect(&path, Origin::echo().address);
    let address = format!("unix:{}", path.display());
    let second = command(&["run", "--listen", &address, "--admin", "off"]).output().unwrap();
    assert_eq!(second.status.code(), Some(69), "{second:?}");
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains(&format!("cannot listen on {address}: another process listens there")), "{said}");
    connect(&path, Origin::echo().address);
    drop(egret);
}

#[test]
fn permissions_change_by_reload_and_connections_stay() {
    let folder = Folder::new();
    let (egret, path) = start(&folder, "socketMode: \"0660\"");
    assert_eq!(mode(&path), 0o660);
    let echo = Origin::echo();
    let mut tunnel = connect(&path, echo.address);
    let settings = std::fs::read_to_string(folder.settings()).unwrap();
    folder.write("egret.yaml", &settings.replace("0660", "0666"));
    assert!(egret.reload().contains("reloaded"));
    assert_eq!(mode(&path), 0o666);
    tunnel.write_all(b"x").unwrap();
    tunnel.read_exact(&mut [0]).unwrap();
    connect(&path, echo.address);
    // A listener that goes takes its file along, and the connections stay all the same.
    folder.write(
        "egret.yaml",
        &settings.replace(&format!("unix:{}", path.display()), "127.0.0.1:0").replace(", socketMode: \"0660\"", ""),
    );
    assert!(egret.reload().contains("reloaded"));
    eventually("the file is gone", || !path.exists());
    tunnel.write_all(b"x").unwrap();
    tunnel.read_exact(&mut [0]).unwrap();
}
