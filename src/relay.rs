//! Copies bytes both ways.
