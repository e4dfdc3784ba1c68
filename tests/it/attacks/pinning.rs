//! NTLM and Negotiate authenticate a connection, not a request: one that a client has authenticated is nobody else's.

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::origin::{Origin, read_head};
use crate::support::{Egret, client, eventually};

/// An origin of the kind: whoever sends `SCHEME prove-NAME` makes the connection NAME's. Counts the open ones that are
/// somebody's.
fn authenticating(challenge: &'static str) -> (Origin, Arc<AtomicUsize>) {
    let open = Arc::new(AtomicUsize::new(0));
    let counted = open.clone();
    let origin = Origin::new(move |mut stream| {
        let mut user = None;
        while let Some(head) = read_head(&mut stream) {
            if let Some((_, proof)) = head.split_once(" prove-") {
                let proved = user.replace(proof.split("\r\n").next().unwrap().to_owned());
                counted.fetch_add(usize::from(proved.is_none()), Ordering::SeqCst);
            }
            let answer = match &user {
                Some(user) => format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{user}", user.len()),
                None => {
                    format!("HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: {challenge}\r\nContent-Length: 0\r\n\r\n")
                }
            };
            if stream.write_all(answer.as_bytes()).is_err() {
                break;
            }
        }
        counted.fetch_sub(usize::from(user.is_some()), Ordering::SeqCst);
    });
    (origin, open)
}

struct Client<'a> {
    stream: TcpStream,
    origin: &'a Origin,
}

impl<'a> Client<'a> {
    fn of(egret: &Egret, origin: &'a Origin) -> Self {
        Self { stream: client::dial(egret.proxy()), origin }
    }

    /// Status and who the origin takes the client for.
    fn ask(&mut self, more: &str) -> (u16, String) {
        let origin = self.origin.address;
        write!(self.stream, "GET http://{origin}/ HTTP/1.1\r\nHost: {origin}\r\n{more}\r\n").unwrap();
        let answer = client::read_answer(&mut self.stream);
        (answer.status, String::from_utf8(answer.body).unwrap())
    }
}

fn ok(user: &str) -> (u16, String) {
    (200, user.to_owned())
}

const UNKNOWN: (u16, String) = (401, String::new());

#[test]
fn a_connection_that_a_client_authenticated_serves_no_other_client() {
    for (challenge, scheme) in [("NTLM", "NTLM"), ("Negotiate", "negotiate"), ("Basic realm=\"a\", nTLM", "nTLM")] {
        let (origin, open) = authenticating(challenge);
        let egret = Egret::start();
        let (mut alice, mut bob) = (Client::of(&egret, &origin), Client::of(&egret, &origin));
        assert_eq!(bob.ask(""), UNKNOWN);
        assert_eq!(alice.ask(""), UNKNOWN);
        assert_eq!(alice.ask(&format!("Authorization: {scheme} hello\r\n")), UNKNOWN);
        assert_eq!(alice.ask(&format!("Authorization: {scheme} prove-alice\r\n")), ok("alice"));
        assert_eq!(alice.ask(""), ok("alice"), "her own connection goes on: {challenge}");
        for _ in 0..5 {
            assert_eq!(bob.ask(""), UNKNOWN, "{challenge}");
            assert_eq!(Client::of(&egret, &origin).ask(""), UNKNOWN, "{challenge}");
        }
        assert_eq!(bob.ask(&format!("Authorization: {scheme} prove-bob\r\n")), ok("bob"));
        assert_eq!(alice.ask(""), ok("alice"), "{challenge}");
        assert_eq!(bob.ask(""), ok("bob"), "{challenge}");

        // When they leave, their connections do.
        drop((alice, bob));
        for _ in 0..5 {
            assert_eq!(Client::of(&egret, &origin).ask(""), UNKNOWN, "{challenge}");
        }
        eventually("no connection is left that is somebody's", || open.load(Ordering::SeqCst) == 0);
    }
}

#[test]
fn a_client_that_authenticates_with_its_last_request_leaves_nothing_behind() {
    let (origin, _) = authenticating("Negotiate");
    let egret = Egret::start();
    assert_eq!(Client::of(&egret, &origin).ask(""), UNKNOWN, "a connection for the pool, if it were kept");
    let last = Client::of(&egret, &origin).ask("Connection: close\r\nAuthorization: Negotiate prove-carol\r\n");
    assert_eq!(last, ok("carol"));
    for _ in 0..5 {
        assert_eq!(Client::of(&egret, &origin).ask(""), UNKNOWN);
    }
}
