//! The `sni` listener: TLS is forwarded by its server name, never terminated.

use std::sync::Arc;

use super::Accepted;
use crate::tunnel::Proxy;

/// Serves one client connection to its end.
pub async fn serve(_proxy: Arc<Proxy>, _accepted: Accepted) {
    unimplemented!()
}
