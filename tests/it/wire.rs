//! HTTP/1 as it looks on the wire: raw sockets on both sides of a running proxy, nothing in between that repairs or hides.

mod answers;
mod bodies;
mod connect;
mod fields;
mod half_closed;
mod pressure;
mod refusals;
mod reuse;
mod switching;
mod tls;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::support::{Egret, Folder, client};

/// A proxy that may reach loopback, is called `egret-test`, and has these settings besides.
pub(crate) fn proxy(more: &str) -> (Egret, Folder) {
    let folder = settings(more);
    (Egret::with_settings(&folder.settings()), folder)
}

/// The settings of [`proxy`].
pub(crate) fn settings(more: &str) -> Folder {
    Folder::with_settings(&format!(
        "listeners: [{{ name: proxy, address: \"127.0.0.1:0\" }}]\naddresses: {{ allow: [127.0.0.0/8] }}\n\
         via: {{ name: egret-test }}\n{more}\n"
    ))
}

/// Sends this on a connection of its own and gives all that comes back.
///
/// # Panics
/// When the proxy does not close in order.
pub(crate) fn converse(proxy: SocketAddr, bytes: impl AsRef<[u8]>) -> String {
    let mut stream = client::dial(proxy);
    stream.write_all(bytes.as_ref()).unwrap();
    read_to_end(&mut stream)
}

/// Everything up to an orderly end.
pub(crate) fn read_to_end(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let end = stream.read_to_end(&mut bytes);
    let text = String::from_utf8(bytes).unwrap();
    assert!(end.is_ok(), "{end:?} after {text:?}");
    text
}

/// Everything up to a reset.
pub(crate) fn read_to_reset(stream: &mut TcpStream) -> String {
    let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut piece) {
            Ok(0) => panic!("an orderly end after {:?}", String::from_utf8_lossy(&bytes)),
            Ok(n) => bytes.extend_from_slice(&piece[..n]),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::ConnectionReset, "after {:?}", String::from_utf8_lossy(&bytes));
                return String::from_utf8(bytes).unwrap();
            }
        }
    }
}

/// Reads until what was read ends with `end`.
pub(crate) fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let (mut bytes, mut byte) = (Vec::new(), [0]);
    while !bytes.ends_with(end.as_bytes()) {
        let read = stream.read(&mut byte);
        assert!(matches!(read, Ok(1)), "{read:?} after {:?}", String::from_utf8_lossy(&bytes));
        bytes.push(byte[0]);
    }
    String::from_utf8(bytes).unwrap()
}

/// How many answers a text holds.
pub(crate) fn answers(text: &str) -> usize {
    text.match_indices("HTTP/1.1 ").filter(|(at, _)| text[at + 9..].starts_with(|c: char| c.is_ascii_digit())).count()
}
