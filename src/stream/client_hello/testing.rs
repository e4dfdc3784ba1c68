//! Hellos, put together by hand.

/// The handshake messages in `records`, without the record headers.
pub(crate) fn messages(mut records: &[u8]) -> Vec<u8> {
    let mut messages = Vec::new();
    while let [_, _, _, high, low, rest @ ..] = records {
        let (fragment, behind) = rest.split_at(usize::from(*high) << 8 | usize::from(*low));
        messages.extend_from_slice(fragment);
        records = behind;
    }
    messages
}

pub(crate) fn records(message: &[u8], fragment_bytes: usize) -> Vec<u8> {
    let record =
        |fragment: &[u8]| [&[22, 3, 1][..], &u16::try_from(fragment.len()).unwrap().to_be_bytes(), fragment].concat();
    message.chunks(fragment_bytes).flat_map(record).collect()
}

pub(crate) fn vector8(bytes: &[u8]) -> Vec<u8> {
    [&[u8::try_from(bytes.len()).unwrap()][..], bytes].concat()
}

pub(crate) fn vector16(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
}

pub(crate) fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &vector16(data)].concat()
}

/// A whole record with a hello that has these extensions, or none at all.
pub(crate) fn hello_with(extensions: Option<&[u8]>) -> Vec<u8> {
    let extensions = extensions.map(vector16).unwrap_or_default();
    let body = [&[3, 1][..], &[7; 32], &vector8(&[]), &vector16(&[0, 47]), &vector8(&[0]), &extensions].concat();
    let len = u32::try_from(body.len()).unwrap().to_be_bytes();
    records(&[&[1][..], &len[1..], &body].concat(), super::RECORD_BYTES_MAX)
}

/// One that names this host, or nobody.
pub(crate) fn hello(name: Option<&str>) -> Vec<u8> {
    name.map_or_else(|| hello_with(Some(&[])), |name| hello_of(name.as_bytes()))
}

/// One with these bytes as server name.
pub(crate) fn hello_of(name: &[u8]) -> Vec<u8> {
    hello_with(Some(&server_name_extension(name)))
}

/// One with an encrypted ClientHello behind this outer name.
pub(crate) fn hello_with_ech(name: &str) -> Vec<u8> {
    hello_with(Some(&[server_name_extension(name.as_bytes()), extension(super::EXTENSION_ECH, &[0; 8])].concat()))
}

/// The same hello in records of so many bytes.
pub(crate) fn in_records(hello: &[u8], fragment_bytes: usize) -> Vec<u8> {
    records(&messages(hello), fragment_bytes)
}

fn server_name_extension(name: &[u8]) -> Vec<u8> {
    extension(0, &vector16(&[&[0][..], &vector16(name)].concat()))
}
