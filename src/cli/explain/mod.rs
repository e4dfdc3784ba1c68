//! x
mod answer;
mod question;
mod stages;
mod suggest;
mod text;
