//! Many ServiceEntries that all lead to the origin: names with fixed addresses, names that are resolved, wildcards.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// So many entries, and where they lead.
#[derive(Clone)]
pub(super) struct Rules {
    pub(super) entries: u32,
    origins: Vec<SocketAddr>,
    routes: bool,
}

impl Rules {
    /// `origins`: the first is what `origin.test` resolves to. `routes`: each has a VirtualService of its own.
    pub(super) fn new(entries: u32, origins: &[SocketAddr], routes: bool) -> Self {
        Self { entries, origins: origins.to_vec(), routes }
    }

    /// A name to ask for that entry `n` answers for.
    pub(super) fn asked(&self, n: u32) -> String {
        match is_wildcard(n) {
            true => format!("a.{}", host(n)),
            false => host(n),
        }
    }

    /// Numbers of entries in an order in which neighbours lie far from each other and each has its turn.
    pub(super) fn spread(&self, n: u64) -> u32 {
        u32::try_from(n * STRIDE % u64::from(self.entries)).expect("less than there are entries")
    }

    /// Numbers of entries of one kind, spread likewise.
    pub(super) fn spread_of(&self, wildcard: bool) -> impl Iterator<Item = u32> {
        (0..u64::from(self.entries)).map(|n| self.spread(n)).filter(move |n| is_wildcard(*n) == wildcard)
    }

    /// Settings under which these and no other targets are known. Returns their file.
    pub(super) fn write(&self, folder: &Path, address: SocketAddr) -> std::io::Result<PathBuf> {
        let mut rules = String::new();
        for n in 0..self.entries {
            self.write_entry(n, &mut rules);
        }
        fs::write(folder.join("rules.yaml"), rules)?;
        fs::write(folder.join("hosts"), format!("{} origin.test\n", self.origins[0].ip()))?;
        let settings = folder.join("egret.yaml");
        let folder = folder.display();
        fs::write(
            &settings,
            // The tunnels carry plain text to ports of TLS, which is not what is measured here.
            format!(
                "threads: 1\nlisteners: [{{ name: proxy, address: \"{address}\" }}]\nadmin: off\nconsistency: {{ mode: off }}\n\
                 mesh: {{ outboundTrafficPolicy: {{ mode: REGISTRY_ONLY }}, accessLogFile: {folder}/access.log }}\n\
                 dns: {{ hosts: {folder}/hosts }}\naddresses: {{ allow: [127.0.0.0/8] }}\nresources: [rules.yaml]\n",
            ),
        )?;
        Ok(settings)
    }

    fn write_entry(&self, n: u32, out: &mut String) {
        let origin = self.origins[n as usize % self.origins.len()];
        let (star, resolution, endpoint) = match n % 3 {
            0 => ("", "STATIC", origin.ip().to_string()),
            1 => ("", "DNS", "origin.test".to_owned()),
            _ => ("*.", "DNS", "origin.test".to_owned()),
        };
        let port = if resolution == "STATIC" { origin.port() } else { self.origins[0].port() };
        write!(
            out,
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{ name: service-{n} }}\nspec:\n  \
             hosts: [\"{star}{}\"]\n  ports: [{{ number: 443, name: tls, protocol: TLS }}]\n  resolution: {resolution}\n  \
             endpoints: [{{ address: {endpoint}, ports: {{ tls: {port} }} }}]\n---\n",
            host(n)
        )
        .expect("a String takes everything");
        if self.routes {
            write!(
                out,
                "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{ name: service-{n} }}\nspec:\n  \
                 hosts: [\"{star}{0}\"]\n  tls:\n  - match: [{{ port: 443, sniHosts: [\"{star}{0}\"] }}]\n    \
                 route: [{{ destination: {{ host: \"{star}{0}\", port: {{ number: 443 }} }} }}]\n---\n",
                host(n)
            )
            .expect("a String takes everything");
        }
    }
}

fn host(n: u32) -> String {
    format!("service-{n}.partner-{}.example.com", n % 1000)
}

fn is_wildcard(n: u32) -> bool {
    n % 3 == 2
}

const STRIDE: u64 = 7_368_787; // a prime, so that it has no part in common with a number of entries

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_entry_has_its_turn_and_is_asked_by_a_name_it_answers_for() {
        let rules = Rules::new(1_000, &[SocketAddr::from(([127, 0, 0, 1], 80))], false);
        let turns: HashSet<u32> = (0..1_000).map(|n| rules.spread(n)).collect();
        assert_eq!(turns.len(), 1_000);
        assert_eq!(rules.asked(4), "service-4.partner-4.example.com");
        assert_eq!(rules.asked(5), "a.service-5.partner-5.example.com");
        assert_eq!(rules.spread_of(true).count(), 333);
    }
}
