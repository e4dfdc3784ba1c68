//! Ourselves by another name: is an address about to be dialled, or a socket just connected, a listener of ours?

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Our listening addresses, as bound.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnListeners {
    /// Listeners of the data plane: never dialled by way of a literal or DNS; a cluster that spells the address may.
    pub proxies: Vec<SocketAddr>,
    /// The admin port: never dialled.
    pub admin: Option<SocketAddr>,
}

/// What is known of an address before it is dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Before {
    /// No listener of ours.
    Other,
    /// A listener of ours.
    Own,
    /// The port is that of a listener on all local addresses: the connected socket tells.
    AskSocket,
}

impl OwnListeners {
    /// Judges an address; `spelled`: a resource spells it out, so that only the admin port is closed.
    pub(super) fn before(&self, peer: SocketAddr, spelled: bool) -> Before {
        let proxies = if spelled { &[][..] } else { &self.proxies };
        let mut verdict = Before::Other;
        for own in proxies.iter().chain(&self.admin).filter(|own| own.port() == peer.port()) {
            let (own, ip) = (own.ip().to_canonical(), reached(peer.ip()));
            if own == ip || own.is_unspecified() && ip.is_loopback() {
                return Before::Own;
            }
            if own.is_unspecified() {
                verdict = Before::AskSocket;
            }
        }
        verdict
    }

    /// True if dialling `peer` is known to reach ourselves before a socket tells more. `spelled`: a resource spells the address out.
    pub fn is_ours(&self, peer: SocketAddr, spelled: bool) -> bool {
        self.before(peer, spelled) == Before::Own
    }

    /// Judges a connected socket whose port is that of a listener on all local addresses: it ends here if both ends are one host.
    pub(super) fn is_own_end(peer: SocketAddr, local: SocketAddr) -> bool {
        peer.ip().to_canonical() == local.ip().to_canonical()
    }
}

/// The address that the kernel connects to: unspecified means this host.
fn reached(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn own(proxy: &str) -> OwnListeners {
        OwnListeners { proxies: vec![proxy.parse().unwrap()], admin: Some("127.0.0.1:15000".parse().unwrap()) }
    }

    fn before(own: &OwnListeners, peer: &str, spelled: bool) -> Before {
        own.before(peer.parse().unwrap(), spelled)
    }

    #[test]
    fn a_listener_is_known_in_every_spelling_of_its_address() {
        let own = own("127.0.0.1:3128");
        for peer in ["127.0.0.1:3128", "[::ffff:127.0.0.1]:3128", "0.0.0.0:3128", "[::ffff:0.0.0.0]:3128"] {
            assert_eq!(before(&own, peer, false), Before::Own, "{peer}");
        }
        for peer in ["127.0.0.1:3129", "127.0.0.2:3128", "[::1]:3128", "[::]:3128", "192.0.2.1:3128"] {
            assert_eq!(before(&own, peer, false), Before::Other, "{peer}");
        }
    }

    #[test]
    fn a_listener_on_all_addresses_is_every_local_address() {
        for bound in ["0.0.0.0:3128", "[::]:3128"] {
            let own = own(bound);
            for peer in ["127.0.0.1:3128", "127.9.9.9:3128", "[::1]:3128", "0.0.0.0:3128", "[::]:3128"] {
                assert_eq!(before(&own, peer, false), Before::Own, "{bound} {peer}");
            }
            assert_eq!(before(&own, "192.0.2.1:3128", false), Before::AskSocket);
            assert_eq!(before(&own, "192.0.2.1:3129", false), Before::Other);
        }
        let local = |peer: &str, local: &str| OwnListeners::is_own_end(peer.parse().unwrap(), local.parse().unwrap());
        assert!(local("192.0.2.1:3128", "192.0.2.1:40000"));
        assert!(!local("192.0.2.1:3128", "192.0.2.2:40000"));
    }

    #[test]
    fn a_resource_may_spell_a_listener_but_never_the_admin_port() {
        let own = own("127.0.0.1:3128");
        assert_eq!(before(&own, "127.0.0.1:3128", true), Before::Other);
        assert_eq!(before(&own, "127.0.0.1:15000", true), Before::Own);
        assert_eq!(before(&own, "0.0.0.0:15000", false), Before::Own);
    }
}
