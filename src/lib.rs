//! tailhop: one local address for the models and vectors on your tailnet.

pub mod words;
