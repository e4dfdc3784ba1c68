//! Where a listener is reached.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// `listeners[].address`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ListenAddress {
    /// `127.0.0.1:3128`; port 0 is any.
    Inet(SocketAddr),
    /// `unix:/run/egret/proxy.sock`: absolute, and short enough for the kernel.
    Unix(PathBuf),
    /// `fd:NAME`: a socket that whoever started us bound already, by its name in LISTEN_FDNAMES (sd_listen_fds(3)).
    Passed(Box<str>),
}

/// A socket's path and the zero at its end are 108 bytes at most (unix(7)).
const UNIX_PATH_BYTES_MAX: usize = 107;

impl ListenAddress {
    /// The address, where it is one of IP.
    pub fn inet(&self) -> Option<SocketAddr> {
        match self {
            Self::Inet(address) => Some(*address),
            Self::Unix(_) | Self::Passed(_) => None,
        }
    }

    /// True if it can be reached from this machine alone, as far as the address says: of a passed socket it says nothing.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Inet(address) => address.ip().to_canonical().is_loopback(),
            Self::Unix(_) => true,
            Self::Passed(_) => false,
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Passed(name) => write!(f, "fd:{name}"),
        }
    }
}

impl From<SocketAddr> for ListenAddress {
    fn from(address: SocketAddr) -> Self {
        Self::Inet(address)
    }
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match Path::new(path) {
                path if !path.is_absolute() => {
                    Err("the path of a unix socket is absolute: unix:/run/egret/proxy.sock".to_owned())
                }
                path if path.as_os_str().len() > UNIX_PATH_BYTES_MAX => {
                    Err(format!("the path of a unix socket is at most {UNIX_PATH_BYTES_MAX} bytes long"))
                }
                path => Ok(Self::Unix(path.to_owned())),
            };
        }
        if let Some(name) = text.strip_prefix("fd:") {
            // FileDescriptorName= of systemd.socket(5): printable ASCII but `:`, at most 255.
            let fits = (1..=255).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic() && b != b':');
            return match fits {
                true => Ok(Self::Passed(name.into())),
                false => Err("the name of a passed socket is 1 to 255 printable characters without `:`".to_owned()),
            };
        }
        text.parse().map(Self::Inet).map_err(|_| {
            "neither an address with port such as 127.0.0.1:3128 or [::1]:3128, nor unix:/PATH, nor fd:NAME".to_owned()
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_they_are_read() {
        for text in ["127.0.0.1:3128", "[::1]:0", "unix:/run/egret/proxy.sock", "fd:egret.socket"] {
            assert_eq!(text.parse::<ListenAddress>().unwrap().to_string(), text);
        }
        for text in
            ["3128", ":3128", "localhost:3128", "unix:", "unix:proxy.sock", "unix:@egret", "fd:", "fd:a:b", "fd:a b"]
        {
            assert!(text.parse::<ListenAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_unix_path_is_as_long_as_the_kernel_takes_it() {
        let path = format!("unix:/{}", "x".repeat(UNIX_PATH_BYTES_MAX - 1));
        assert!(path.parse::<ListenAddress>().is_ok());
        assert!(format!("{path}x").parse::<ListenAddress>().is_err());
    }

    #[test]
    fn only_loopback_and_files_are_known_to_be_of_this_machine() {
        let local = |text: &str| text.parse::<ListenAddress>().unwrap().is_local();
        assert!(local("127.8.0.1:1") && local("[::1]:1") && local("[::ffff:127.0.0.1]:1") && local("unix:/x"));
        assert!(!local("0.0.0.0:1") && !local("[::]:1") && !local("fd:x"));
    }
}
