//! The control half: files to resources and settings to one compiled [`Snapshot`](crate::route::Snapshot). The data plane never
//! imports this; what is read here is handed over by `app`.
//!
//! [`Configuration::load`] is the way in.
//!
//! [`source`] a file's text and places in it · [`yaml`] text to nodes · [`read`] nodes to typed values · [`resource`] a document with its
//! metadata · [`settings`] the settings file · [`load`] files and folders · [`compile`] all together · [`diagnostic`] and [`code`] what is wrong ·
//! [`digest`] what is different between two configurations · [`material`] files with keys and certificates.

pub mod code;
pub mod compile;
pub mod diagnostic;
pub mod digest;
pub mod kinds;
pub mod load;
pub mod material;
mod names;
pub mod read;
pub mod resource;
pub mod settings;
pub mod source;
pub mod yaml;

pub use code::{Code, Severity};
pub use diagnostic::{Context, Diagnostic, Diagnostics};
pub use load::{Configuration, Sources};
pub use resource::{Kind, Metadata, Resource};
pub use settings::{Overrides, Settings};
pub use source::{Source, Span, Spanned};
