//! Requests, as clients send them: where they end, and which path they name.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| spliceport::streamer::properties::request(data));
