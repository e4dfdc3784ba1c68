//! HTTP/2 on a `forward` listener: CONNECT, websocket and plain requests, the limits of a connection, and what RFC 9113 and 7541 refuse. And
//! HTTP/2 to upstreams.

mod abuse;
mod conformance;
mod connect;
mod fairness;
mod limits;
mod peers;
mod plain;
mod tls;
mod upstream;
mod windows;
