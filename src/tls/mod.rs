//! TLS as client and server; the only place that names the crypto provider.

/// A compiled TLS client: trust, client certificate, names to verify, session store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ClientTls {}
