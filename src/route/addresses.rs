//! Which addresses may be dialled: judged after resolution, on exactly the address that is dialled.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use thiserror::Error;

/// A set of addresses: sorted, merged ranges, asked by binary search. IPv4 and IPv6 apart; IPv4-mapped IPv6 counts as IPv4.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IpSet {
    v4: Box<[(u32, u32)]>,
    v6: Box<[(u128, u128)]>,
}

impl IpSet {
    /// True if nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// True if the address lies in one of the ranges.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match ip.to_canonical() {
            IpAddr::V4(ip) => covers(&self.v4, u32::from(ip)),
            IpAddr::V6(ip) => covers(&self.v6, u128::from(ip)),
        }
    }
}

impl FromIterator<IpNet> for IpSet {
    fn from_iter<I: IntoIterator<Item = IpNet>>(nets: I) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for net in nets {
            match net {
                IpNet::V4(net) => v4.push((u32::from(net.network()), u32::from(net.broadcast()))),
                IpNet::V6(net) => v6.push((u128::from(net.network()), u128::from(net.broadcast()))),
            }
        }
        Self { v4: merged(v4), v6: merged(v6) }
    }
}

impl FromIterator<IpAddr> for IpSet {
    fn from_iter<I: IntoIterator<Item = IpAddr>>(ips: I) -> Self {
        ips.into_iter().map(|ip| IpNet::from(ip.to_canonical())).collect()
    }
}

fn covers<N: Ord + Copy>(ranges: &[(N, N)], value: N) -> bool {
    let after = ranges.partition_point(|(first, _)| *first <= value);
    after > 0 && ranges[after - 1].1 >= value
}

fn merged<N: Ord + Copy>(mut ranges: Vec<(N, N)>) -> Box<[(N, N)]> {
    ranges.sort_unstable();
    ranges.dedup_by(|next, kept| {
        let overlaps = next.0 <= kept.1;
        if overlaps {
            kept.1 = kept.1.max(next.1);
        }
        overlaps
    });
    ranges.into()
}

/// What the settings say of addresses: `addresses: { allow, deny }`.
#[derive(Clone, Debug, Default)]
pub struct AddressPolicy {
    /// Opened for every flow, metadata ranges included.
    pub allow: IpSet,
    /// Closed for every flow, unless `allow` names them.
    pub deny: IpSet,
}

/// What one cluster may dial: the settings' policy, and the addresses its own resources spell out or open.
#[derive(Clone, Debug, Default)]
pub struct AddressRules {
    /// The settings' part, shared by all clusters.
    pub policy: Arc<AddressPolicy>,
    /// Spelled out by a resource (STATIC endpoints, Endpoints, an upstream proxy) or opened by `egret.dev/allow-addresses`.
    pub opened: IpSet,
}

/// Why an address may not be dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{ip} is {class}")]
pub struct Prohibited {
    /// The address as it would have been dialled.
    pub ip: IpAddr,
    /// What kind of address it is.
    pub class: AddressClass,
}

impl AddressRules {
    /// Says whether `ip` may be dialled. IPv6 forms that embed an IPv4 address are judged by both.
    ///
    /// # Errors
    /// [`Prohibited`] with the class that closed it.
    pub fn judge(&self, ip: IpAddr) -> Result<(), Prohibited> {
        let ip = ip.to_canonical();
        for form in forms(ip).into_iter().flatten() {
            self.judge_form(form).map_err(|class| Prohibited { ip, class })?;
        }
        Ok(())
    }

    fn judge_form(&self, ip: IpAddr) -> Result<(), AddressClass> {
        if self.policy.allow.contains(ip) {
            return Ok(());
        }
        if self.policy.deny.contains(ip) {
            return Err(AddressClass::Denied);
        }
        match AddressClass::of(ip) {
            AddressClass::Global => Ok(()),
            AddressClass::Metadata => Err(AddressClass::Metadata),
            _ if self.opened.contains(ip) => Ok(()),
            class => Err(class),
        }
    }
}

/// What kind of address it is (IANA special-purpose registries, RFC 6890, and the cloud metadata services).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressClass {
    /// Reachable from everywhere.
    Global,
    /// In `addresses.deny`.
    Denied,
    /// 0.0.0.0/8, ::.
    Unspecified,
    /// 127.0.0.0/8, ::1.
    Loopback,
    /// 169.254.0.0/16, fe80::/10.
    LinkLocal,
    /// Cloud metadata services.
    Metadata,
    /// RFC 1918, fc00::/7, fec0::/10.
    Private,
    /// 100.64.0.0/10 (RFC 6598).
    SharedNat,
    /// 224.0.0.0/4, ff00::/8.
    Multicast,
    /// Documentation, benchmarking, protocol assignments, 240.0.0.0/4 and the rest.
    Reserved,
}

impl AddressClass {
    /// The class of an address in one form; embedded forms are the caller's to unfold.
    pub fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => Self::of_v4(ip),
            IpAddr::V6(ip) => Self::of_v6(ip),
        }
    }

    fn of_v4(ip: Ipv4Addr) -> Self {
        match ip.octets() {
            [169, 254, 169, 254] | [169, 254, 170, 2 | 23] | [168, 63, 129, 16] | [100, 100, 100, 200] => {
                Self::Metadata
            }
            [0, ..] => Self::Unspecified,
            [127, ..] => Self::Loopback,
            [169, 254, ..] => Self::LinkLocal,
            [10, ..] | [192, 168, ..] | [172, 16..=31, ..] => Self::Private,
            [100, 64..=127, ..] => Self::SharedNat,
            [224..=239, ..] => Self::Multicast,
            [240..=255, ..]
            | [192, 0, 0 | 2, _]
            | [192, 88, 99, _]
            | [198, 18 | 19, ..]
            | [198, 51, 100, _]
            | [203, 0, 113, _] => Self::Reserved,
            _ => Self::Global,
        }
    }

    fn of_v6(ip: Ipv6Addr) -> Self {
        let segments = ip.segments();
        match segments {
            [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254] | [0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254] => Self::Metadata,
            [0, 0, 0, 0, 0, 0, 0, 0] => Self::Unspecified,
            [0, 0, 0, 0, 0, 0, 0, 1] => Self::Loopback,
            [0xfe80..=0xfebf, ..] => Self::LinkLocal,
            [0xfc00..=0xfdff, ..] | [0xfec0..=0xfeff, ..] => Self::Private,
            [0xff00..=0xffff, ..] => Self::Multicast,
            // NAT64, 6to4 and Teredo are judged by the IPv4 address inside; the rest of 2001::/23 is protocol assignments.
            [0x64, 0xff9b, ..] | [0x2002, ..] | [0x2001, 0, ..] => Self::Global,
            [0x2001, 0x2..=0x1ff, ..] | [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => Self::Reserved,
            [0x2000..=0x3fff, ..] => Self::Global,
            _ => Self::Reserved,
        }
    }
}

impl fmt::Display for AddressClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Global => "a public address",
            Self::Denied => "closed by addresses.deny",
            Self::Unspecified => "an unspecified address",
            Self::Loopback => "a loopback address",
            Self::LinkLocal => "a link-local address",
            Self::Metadata => "a cloud metadata address",
            Self::Private => "a private address",
            Self::SharedNat => "a shared (carrier-grade NAT) address",
            Self::Multicast => "a multicast address",
            Self::Reserved => "a reserved address",
        })
    }
}

/// The forms of an address that have to be judged: itself, and up to two IPv4 addresses that an IPv6 address carries: mapped and
/// compatible (RFC 4291 §2.5.5), NAT64 (RFC 6052, RFC 8215), 6to4 (RFC 3056), ISATAP (RFC 5214), Teredo server and client (RFC 4380).
fn forms(ip: IpAddr) -> [Option<IpAddr>; 3] {
    let IpAddr::V6(v6) = ip else { return [Some(ip), None, None] };
    let s = v6.segments();
    let v4 = |high: u16, low: u16| Some(IpAddr::V4(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low))));
    match s {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => [Some(ip), None, None],
        // Compatible and mapped forms have no life of their own: only the IPv4 address counts.
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0, 0, 0, 0, 0xffff, 0, high, low] => [v4(high, low), None, None],
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => [Some(ip), v4(high, low), None],
        // RFC 8215 local-use prefix: operators choose the length, so every RFC 6052 §2.2 position of /48 and /96 is judged.
        [0x64, 0xff9b, 1, a, bc, d, high, low] => [Some(ip), v4(a, (bc & 0xff) << 8 | d >> 8), v4(high, low)],
        [0x2002, high, low, ..] => [Some(ip), v4(high, low), None],
        [0x2001, 0, server_high, server_low, _, _, client_high, client_low] => {
            [Some(ip), v4(server_high, server_low), v4(!client_high, !client_low)]
        }
        [_, _, _, _, 0 | 0x200, 0x5efe, high, low] => [Some(ip), v4(high, low), None],
        _ => [Some(ip), None, None],
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn set(nets: &[&str]) -> IpSet {
        nets.iter().map(|net| net.parse::<IpNet>().unwrap()).collect()
    }

    #[test]
    fn special_addresses_are_refused_in_every_embedding() {
        let rules = AddressRules::default();
        for text in [
            "127.0.0.1",
            "::1",
            "0.0.0.0",
            "::",
            "169.254.169.254",
            "10.1.2.3",
            "172.31.0.1",
            "192.168.0.1",
            "100.64.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "192.0.2.1",
            "fe80::1",
            "fc00::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b:1:7f00:0:100::",
            "64:ff9b:1::10.0.0.1",
            "2002:7f00:1::",
            "2001:0:7f00:1::",
            "2001:0:808:808::80ff:fffe",
            "2606:4700::5efe:10.0.0.1",
            "fd00:ec2::254",
            "2001:db8::1",
            "100::1",
        ] {
            assert!(rules.judge(ip(text)).is_err(), "{text} passed");
        }
        for text in ["1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "64:ff9b::101:101", "2002:101:101::"] {
            assert_eq!(rules.judge(ip(text)), Ok(()), "{text}");
        }
    }

    #[test]
    fn what_a_resource_opens_is_open_but_for_denied_and_metadata_addresses() {
        let policy = Arc::new(AddressPolicy { allow: IpSet::default(), deny: set(&["10.9.0.0/16"]) });
        let rules = AddressRules { policy, opened: set(&["10.0.0.0/8", "169.254.0.0/16"]) };
        assert_eq!(rules.judge(ip("10.1.2.3")), Ok(()));
        assert_eq!(rules.judge(ip("64:ff9b::10.1.2.3")), Ok(()));
        assert_eq!(rules.judge(ip("169.254.1.1")), Ok(()));
        assert_eq!(rules.judge(ip("10.9.0.1")).unwrap_err().class, AddressClass::Denied);
        assert_eq!(rules.judge(ip("169.254.169.254")).unwrap_err().class, AddressClass::Metadata);
    }

    #[test]
    fn the_allow_list_beats_everything() {
        let policy =
            Arc::new(AddressPolicy { allow: set(&["169.254.169.254/32", "10.9.0.1/32"]), deny: set(&["10.0.0.0/8"]) });
        let rules = AddressRules { policy, opened: IpSet::default() };
        assert_eq!(rules.judge(ip("169.254.169.254")), Ok(()));
        assert_eq!(rules.judge(ip("10.9.0.1")), Ok(()));
        assert!(rules.judge(ip("10.9.0.2")).is_err());
    }

    #[test]
    fn overlapping_ranges_are_merged() {
        let set = set(&["10.0.0.0/9", "10.64.0.0/10", "11.0.0.0/8"]);
        assert!(
            set.contains(ip("10.127.255.255")) && set.contains(ip("11.0.0.0")) && set.contains(ip("::ffff:10.0.0.1"))
        );
        assert!(!set.contains(ip("10.128.0.0")) && !set.contains(ip("12.0.0.0")) && !set.contains(ip("::10.0.0.1")));
    }
}
