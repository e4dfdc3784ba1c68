//! Basic authentication of proxy clients (RFC 7617) against an htpasswd file with bcrypt hashes.
//!
//! bcrypt costs tens of milliseconds by design, so it runs on the blocking pool behind a semaphore, and successes are remembered
//! for a minute under a keyed hash: no clear text of a password stays in memory.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use thiserror::Error;
use tokio::sync::Semaphore;

/// The users of one htpasswd file, compiled.
#[derive(Debug, PartialEq, Eq)]
pub struct Htpasswd {
    users: HashMap<String, String>,
}

/// Why an htpasswd file cannot be used. Hashes are never part of the message.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum HtpasswdError {
    /// Not `user:hash`.
    #[error("line {line}: expected user:hash")]
    NotAnEntry {
        /// 1-based.
        line: usize,
    },
    /// A hash of another kind than bcrypt.
    #[error("line {line}: user {user:?} has no bcrypt hash ($2y$…); make one with `htpasswd -B`")]
    NotBcrypt {
        /// 1-based.
        line: usize,
        /// Whose.
        user: String,
    },
    /// The same user twice.
    #[error("line {line}: user {user:?} stands twice")]
    Duplicate {
        /// 1-based.
        line: usize,
        /// Whose.
        user: String,
    },
}

impl Htpasswd {
    /// Reads the text of a file: `user:$2y$…` a line, empty lines and `#` comments skipped.
    ///
    /// # Errors
    /// The first line that is none of these.
    pub fn parse(text: &str) -> Result<Self, HtpasswdError> {
        let mut users = HashMap::new();
        for (index, line) in text.lines().enumerate() {
            let line_number = index + 1;
            let line = line.trim_end_matches('\r');
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (user, hash) = line.split_once(':').ok_or(HtpasswdError::NotAnEntry { line: line_number })?;
            if user.is_empty() {
                return Err(HtpasswdError::NotAnEntry { line: line_number });
            }
            if !is_bcrypt(hash) {
                return Err(HtpasswdError::NotBcrypt { line: line_number, user: user.to_owned() });
            }
            if users.insert(user.to_owned(), hash.to_owned()).is_some() {
                return Err(HtpasswdError::Duplicate { line: line_number, user: user.to_owned() });
            }
        }
        Ok(Self { users })
    }
}

fn is_bcrypt(hash: &str) -> bool {
    hash.len() == 60 && ["$2y$", "$2b$", "$2a$"].iter().any(|prefix| hash.starts_with(prefix))
}

/// Verifies credentials of one listener.
#[derive(Debug)]
pub struct Basic {
    realm: String,
    users: Htpasswd,
    successes: Mutex<HashMap<[u64; 2], Success>>,
    keys: [RandomState; 2],
    bcrypt_slots: Semaphore,
}

#[derive(Debug)]
struct Success {
    user: Arc<str>,
    until: Instant,
}

/// What credentials turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// This user.
    User(Arc<str>),
    /// No credentials were sent.
    Missing,
    /// Not Basic, not decodable, unknown user or wrong password: told apart for nobody.
    Wrong,
}

const SUCCESS_TIME: Duration = Duration::from_secs(60);
const SUCCESSES_MAX: usize = 10_000; // bounds memory, not users: an evicted success costs one more bcrypt
const CREDENTIALS_BYTES_MAX: usize = 1024;
// Verified for unknown users, so that they take as long as known ones: bcrypt of nothing anybody types, cost 10.
const DUMMY_HASH: &str = "$2y$10$WvvTPHKwdBJ3uk0Z37EMR.hLA2W6N9AEBhEgrAOljy2Ae5MtaSIUi";

impl Basic {
    /// Users and the realm of `Proxy-Authenticate`.
    pub fn new(realm: &str, users: Htpasswd) -> Self {
        Self {
            realm: realm.to_owned(),
            users,
            successes: Mutex::default(),
            keys: [RandomState::new(), RandomState::new()],
            // One core keeps forwarding whatever is thrown at the login.
            bcrypt_slots: Semaphore::new(std::thread::available_parallelism().map_or(1, |n| n.get()).div_ceil(2)),
        }
    }

    /// True if the other one would ask and answer everybody alike.
    pub fn asks_the_same(&self, other: &Self) -> bool {
        self.realm == other.realm && self.users == other.users
    }

    /// The value of `Proxy-Authenticate`.
    pub fn challenge(&self) -> String {
        let realm: String = self.realm.chars().filter(|c| !matches!(c, '"' | '\\') && !c.is_control()).collect();
        format!("Basic realm=\"{realm}\", charset=\"UTF-8\"")
    }

    /// True if the file has such a user.
    pub fn knows(&self, user: &str) -> bool {
        self.users.users.contains_key(user)
    }

    /// Judges the value of `Proxy-Authorization`.
    pub async fn verify(&self, authorization: Option<&[u8]>) -> Verdict {
        let Some(value) = authorization else { return Verdict::Missing };
        let Some((user, password)) = decode(value) else { return Verdict::Wrong };
        let key = [self.keys[0].hash_one((&user, &password)), self.keys[1].hash_one((&user, &password))];
        if let Some(user) = self.remembered(&key) {
            return Verdict::User(user);
        }
        let Ok(_slot) = self.bcrypt_slots.acquire().await else { return Verdict::Wrong };
        let known = self.users.users.get(&user);
        let hash = known.map_or(DUMMY_HASH, String::as_str).to_owned();
        let matches = tokio::task::spawn_blocking(move || bcrypt::verify(password, &hash).unwrap_or(false)).await;
        if !(matches.unwrap_or(false) && known.is_some()) {
            return Verdict::Wrong;
        }
        let user: Arc<str> = user.into();
        self.remember(key, user.clone());
        Verdict::User(user)
    }

    fn remembered(&self, key: &[u64; 2]) -> Option<Arc<str>> {
        let successes = self.successes.lock().unwrap_or_else(PoisonError::into_inner);
        successes.get(key).filter(|success| success.until > Instant::now()).map(|success| success.user.clone())
    }

    fn remember(&self, key: [u64; 2], user: Arc<str>) {
        let now = Instant::now();
        let mut successes = self.successes.lock().unwrap_or_else(PoisonError::into_inner);
        if successes.len() >= SUCCESSES_MAX {
            successes.retain(|_, success| success.until > now);
        }
        if successes.len() >= SUCCESSES_MAX {
            successes.clear();
        }
        successes.insert(key, Success { user, until: now + SUCCESS_TIME });
    }
}

/// User and password of `Basic <base64>`; the scheme is case-insensitive (RFC 9110 §11.1).
fn decode(value: &[u8]) -> Option<(String, Vec<u8>)> {
    if value.len() > CREDENTIALS_BYTES_MAX {
        return None;
    }
    let text = std::str::from_utf8(value).ok()?;
    let (scheme, token) = text.trim().split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = BASE64_STANDARD.decode(token.trim()).ok()?;
    let colon = decoded.iter().position(|&b| b == b':')?;
    let user = String::from_utf8(decoded[..colon].to_vec()).ok()?;
    let password = decoded[colon + 1..].to_vec();
    // bcrypt reads up to 72 bytes and a NUL would end the password early: neither may make two passwords equal.
    (password.len() <= 72 && !password.contains(&0)).then_some((user, password))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn header(user: &str, password: &str) -> Vec<u8> {
        format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}"))).into_bytes()
    }

    fn basic() -> Basic {
        let hash = bcrypt::hash("secret", 4).unwrap();
        Basic::new("egret", Htpasswd::parse(&format!("# staff\nalice:{hash}\n\n")).unwrap())
    }

    #[tokio::test]
    async fn the_right_password_names_the_user_also_from_memory() {
        let basic = basic();
        for _ in 0..2 {
            assert_eq!(basic.verify(Some(&header("alice", "secret"))).await, Verdict::User("alice".into()));
        }
        assert_eq!(basic.successes.lock().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn everything_else_is_wrong_or_missing() {
        let basic = basic();
        assert_eq!(basic.verify(None).await, Verdict::Missing);
        let wrong: [&[u8]; 6] = [
            &header("alice", "Secret"),
            &header("bob", "secret"),
            b"Bearer abc",
            b"Basic",
            b"Basic !!!",
            &header("alice", &"x".repeat(73)),
        ];
        for value in wrong {
            assert_eq!(basic.verify(Some(value)).await, Verdict::Wrong, "{}", String::from_utf8_lossy(value));
        }
        assert!(basic.successes.lock().unwrap().is_empty());
    }

    #[test]
    fn a_file_with_anything_but_bcrypt_is_refused_with_its_line() {
        let error = Htpasswd::parse("a:$apr1$x$y\n").unwrap_err();
        assert_eq!(error, HtpasswdError::NotBcrypt { line: 1, user: "a".into() });
        assert!(matches!(Htpasswd::parse("\nnonsense"), Err(HtpasswdError::NotAnEntry { line: 2 })));
        let hash = bcrypt::hash("x", 4).unwrap();
        let twice = format!("a:{hash}\na:{hash}\n");
        assert!(matches!(Htpasswd::parse(&twice), Err(HtpasswdError::Duplicate { line: 2, .. })));
    }

    #[test]
    fn the_dummy_hash_is_one_that_bcrypt_reads() {
        assert_eq!(bcrypt::verify("anything", DUMMY_HASH).ok(), Some(false));
    }
}
