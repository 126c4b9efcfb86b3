//! `Range` headers, held against a file whose size is in the first eight bytes.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Some((size, header)) = data.split_first_chunk() {
        spliceport::streamer::properties::ranges(header, u64::from_le_bytes(*size));
    }
});
