//! Secret as written: key material and credentials. Nothing of its content is ever shown.

use std::collections::HashMap;
use std::path::Path;
use std::{fmt, io};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::config::diagnostic::{Code, Diagnostics};
use crate::config::material;
use crate::config::read::Fields;
use crate::config::resource::Resource;

/// The values of a Secret by key.
pub struct Secret {
    values: HashMap<Box<str>, Vec<u8>>,
}

impl Secret {
    /// Reads a Secret; values that are wrong are reported and left out.
    pub fn read(resource: &Resource, diagnostics: &mut Diagnostics) -> Option<Self> {
        let cx = &mut resource.context(diagnostics);
        let mut fields = Fields::of(&resource.root, cx)?;
        for name in ["apiVersion", "kind", "metadata", "immutable"] {
            fields.get(name);
        }
        fields.text("type", cx);
        let mut values = HashMap::new();
        for (key, node) in fields.map("data", cx) {
            let Some(text) = node.scalar() else {
                node.text(cx);
                continue;
            };
            // Files wrap base64 into lines.
            let text: String = text.split_ascii_whitespace().collect();
            match STANDARD.decode(text) {
                Ok(value) => {
                    values.insert(key.text.clone(), value);
                }
                Err(_) => {
                    let report = cx.report(Code::BadSecretData, key.span, "the value is not base64");
                    report.help("plain text belongs into `stringData`");
                }
            }
        }
        for (key, node) in fields.map("stringData", cx) {
            if let Some(text) = node.text(cx) {
                values.insert(key.text.clone(), text.value.as_bytes().to_vec());
            }
        }
        fields.finish(cx);
        Some(Self { values })
    }

    /// A Secret that is mounted as a folder: each regular file is a value, all of them of one version.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn mounted(folder: &Path) -> io::Result<Self> {
        Ok(Self { values: material::read_folder(folder)?.into_iter().collect() })
    }

    /// The value of the first of these keys that is there.
    pub fn get(&self, keys: &[&str]) -> Option<&[u8]> {
        keys.iter().find_map(|key| self.values.get(*key)).map(Vec::as_slice)
    }

    /// Text without the line end that `echo` leaves behind.
    pub fn text(&self, key: &str) -> Option<&str> {
        std::str::from_utf8(self.get(&[key])?).ok().map(|text| text.trim_end_matches(['\r', '\n']))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.values.keys()).finish()
    }
}
