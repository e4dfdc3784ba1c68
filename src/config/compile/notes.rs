//! Diagnostics about several resources. The same one is found again from each namespace, and said once.

use std::collections::HashSet;

use crate::config::diagnostic::{Code, Diagnostic, Diagnostics};
use crate::config::resource::Resource;
use crate::config::source::Span;

/// Collects diagnostics, each once.
#[derive(Debug)]
pub(super) struct Notes<'d> {
    pub(super) diagnostics: &'d mut Diagnostics,
    said: HashSet<(usize, u32, Code)>,
}

impl<'d> Notes<'d> {
    pub(super) fn new(diagnostics: &'d mut Diagnostics) -> Self {
        Self { diagnostics, said: HashSet::new() }
    }

    /// Reports unless this was reported of this place already.
    pub(super) fn once(&mut self, resource: &Resource, code: Code, span: Span, message: impl Into<Box<str>>) {
        self.once_with(resource, code, span, message, |_| {});
    }

    /// The same, with more to say.
    pub(super) fn once_with(
        &mut self,
        resource: &Resource,
        code: Code,
        span: Span,
        message: impl Into<Box<str>>,
        more: impl FnOnce(&mut Diagnostic),
    ) {
        if self.is_new(resource.order, code, span) {
            more(resource.context(self.diagnostics).report(code, span, message));
        }
    }

    /// True the first time; for diagnostics about places outside of resources.
    pub(super) fn is_new(&mut self, order: usize, code: Code, span: Span) -> bool {
        self.said.insert((order, span.offset, code))
    }
}
