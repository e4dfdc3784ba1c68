//! Writes heads and chunk framing.

use std::fmt::Display;

use bytes::BytesMut;

/// `METHOD target HTTP/1.1`.
pub fn request_line(_out: &mut BytesMut, _method: &str, _target: &str) {
    unimplemented!()
}
/// The same with a target that is displayed.
pub fn request_line_display(_out: &mut BytesMut, _method: &str, _target: &impl Display) {
    unimplemented!()
}
/// `HTTP/1.1 status reason`.
pub fn status_line(_out: &mut BytesMut, _status: u16, _reason: &[u8]) {
    unimplemented!()
}
/// `name: value`.
pub fn field(_out: &mut BytesMut, _name: &str, _value: &[u8]) {
    unimplemented!()
}
/// `name: value` of something displayed.
pub fn field_display(_out: &mut BytesMut, _name: &str, _value: &impl Display) {
    unimplemented!()
}
/// The empty line.
pub fn end(_out: &mut BytesMut) {
    unimplemented!()
}
/// Size line of a chunk.
pub fn chunk_head(_out: &mut BytesMut, _len: usize) {
    unimplemented!()
}
/// `0` and the empty line.
pub fn last_chunk(_out: &mut BytesMut) {
    unimplemented!()
}
/// `0`, trailer lines as received, and the empty line.
pub fn last_chunk_with_trailers(_out: &mut BytesMut, _trailers: &[u8]) {
    unimplemented!()
}
