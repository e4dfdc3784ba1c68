//! What an operator could write so that the flow of a question is allowed.

use super::question::Question;
use crate::flow::{ErrorType, Source};
use crate::route::remedy::{Remedy, remedies};
use crate::route::{Nearest, Service};

/// Nothing is suggested for what no rule can mend, such as a target that is none.
pub(super) fn suggestions(
    error: ErrorType,
    question: Option<&Question>,
    source: &Source,
    service: Option<&Service>,
    nearest: Option<&Nearest>,
) -> Vec<Remedy> {
    question.map_or_else(Vec::new, |question| remedies(error, &question.flow(source), service, nearest))
}
