//! What the configuration in force says beside the rules; handed over by `app`, which alone knows it.

use std::sync::Arc;

use serde_json::Value;

use crate::flow::Origin;
use crate::tls::server::ServerTls;

/// Settings, listeners, resources.
#[derive(Debug, Default)]
pub struct Facts {
    /// The settings in force, defaults included; nothing secret is among them.
    pub settings: Value,
    /// The listeners.
    pub listeners: Vec<Listener>,
    /// Where each resource and each entry of `allow` stands, in the order of loading.
    pub resources: Vec<Origin>,
}

/// A listener.
#[derive(Debug)]
pub struct Listener {
    /// Its name.
    pub name: Box<str>,
    /// What the settings say of it.
    pub settings: Value,
    /// Its TLS, and the files that it is made of.
    pub tls: Option<ListenerTls>,
}

/// TLS of a listener.
#[derive(Debug)]
pub struct ListenerTls {
    /// What is in use, which may be older than the files.
    pub server: ServerTls,
    /// The path of its certificate.
    pub certificate: Arc<str>,
    /// The path of its clients' authorities.
    pub client_ca: Option<Arc<str>>,
}
