//! The open proxy rule: what strangers can reach, lets everything through and asks for nothing is refused.

use super::listeners::{self, Listener, Protocol};
use super::{OutboundMode, Settings};
use crate::config::diagnostic::{Code, Diagnostics};
use crate::flow::ListenAddress;

/// Reports every open proxy. Settings are judged as they will be used, the command line included.
pub(super) fn judge(settings: &Settings, diagnostics: &mut Diagnostics) {
    let passes = match settings.mesh.mode {
        OutboundMode::AllowAny => "ALLOW_ANY",
        OutboundMode::RegistryOnly { .. } => "report: true",
    };
    for listener in settings.listeners.iter().filter(|listener| is_open(listener, settings.mesh.mode)) {
        let message = format!(
            "listener {} is an open proxy: {} {}, unknown targets pass ({passes}), and nobody is asked who they are",
            listener.name.value,
            *listener.address,
            match &*listener.address {
                ListenAddress::Passed(_) => "may be reachable from other machines",
                _ => "can be reached from other machines",
            }
        );
        listeners::report(Code::OpenProxy, settings, listener, message, diagnostics).help(
            "name the clients (`clients: { from: [10.0.0.0/8] }`), ask for a password (`clients.basic`) \
             or a client certificate (`tls.clientCertificate: required`), use REGISTRY_ONLY, or say `clients: { open: true }`",
        );
    }
}

/// An `sni` listener has no pass-through whatever the mode, so it opens nothing that no resource names.
fn is_open(listener: &Listener, mode: OutboundMode) -> bool {
    listener.protocol == Protocol::Forward
        && mode.lets_unknown_pass()
        && !listener.address.is_local()
        && listener.clients.basic.is_none()
        && !listener.requires_certificates()
        && !listener.clients.open
        && admits_everybody(listener)
}

/// A network of everything names nobody.
fn admits_everybody(listener: &Listener) -> bool {
    listener.admitted().is_none_or(|networks| networks.iter().any(|network| network.prefix_len() == 0))
}
