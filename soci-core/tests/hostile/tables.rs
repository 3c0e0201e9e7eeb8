//! zTOCs and fine tables whose objects share their bytes.

use bytes::Bytes;
use flatbuffers::{FlatBufferBuilder, Table, TableFinishedWIPOffset, WIPOffset};
use soci_core::digest::Digest;
use soci_core::ztoc::{BuildOptions, Bundle, Ztoc, build_gzip};

use crate::refused;

const fn slot(slot: u16) -> u16 {
    4 + 2 * slot
}

type Made = WIPOffset<TableFinishedWIPOffset>;

/// A zTOC of these files and digests, for a plain tar of 1 MiB.
fn ztoc(
    make: impl FnOnce(&mut FlatBufferBuilder<'_>) -> (Vec<Made>, Vec<WIPOffset<&'static str>>),
) -> Vec<u8> {
    let mut builder = FlatBufferBuilder::new();
    let (files, digests) = make(&mut builder);
    let files: Vec<WIPOffset<Table<'_>>> = files.iter().map(|file| WIPOffset::new(file.value())).collect();
    let files = builder.create_vector(&files);
    let digests = builder.create_vector(&digests);
    let table = builder.start_table();
    builder.push_slot_always(slot(0), files);
    let toc = builder.end_table(table);
    let table = builder.start_table();
    builder.push_slot::<i8>(slot(0), 2, 0);
    builder.push_slot_always(slot(2), digests);
    let compression = builder.end_table(table);
    let table = builder.start_table();
    builder.push_slot::<i64>(slot(2), 1 << 20, 0);
    builder.push_slot::<i64>(slot(3), 1 << 20, 0);
    builder.push_slot_always(slot(4), toc);
    builder.push_slot_always(slot(5), compression);
    let root = builder.end_table(table);
    builder.finish_minimal(root);
    builder.finished_data().to_vec()
}

/// A file with that name.
fn file(builder: &mut FlatBufferBuilder<'_>, name: &[u8]) -> Made {
    let name = builder.create_byte_string(name);
    let kind = builder.create_string("reg");
    let table = builder.start_table();
    builder.push_slot_always(slot(0), name);
    builder.push_slot_always(slot(1), kind);
    builder.push_slot::<i64>(slot(2), 512, 0);
    builder.end_table(table)
}

fn open(bytes: &[u8]) -> Result<Ztoc, soci_core::ztoc::ZtocError> {
    Ztoc::open(Bytes::copy_from_slice(bytes))
}

#[test]
fn many_digests_that_are_one_long_text() {
    let make = || {
        ztoc(|builder| {
            let text = builder.create_string(&"a".repeat(6 << 20));
            let text = WIPOffset::new(text.value());
            (Vec::new(), vec![text; 600_000])
        })
    };
    refused("ztoc-objects", make, open);
}

#[test]
fn as_many_long_digests_as_may_be_are_not_looked_at() {
    // Each is passed over because of its length: the spans are too few for them, and that is found at once.
    let input = ztoc(|builder| {
        let text = builder.create_string(&"a".repeat(6 << 20));
        (Vec::new(), vec![WIPOffset::new(text.value()); 400_000])
    });
    assert!(open(&input).is_err());
}

#[test]
fn many_files_with_one_long_name() {
    let make = || {
        ztoc(|builder| {
            let name = builder.create_byte_string(&vec![b'n'; 4 << 20]);
            let kind = builder.create_string("reg");
            let mut files = Vec::new();
            for at in 1..=40_000_i64 {
                let table = builder.start_table();
                builder.push_slot_always(slot(0), name);
                builder.push_slot_always(slot(1), kind);
                builder.push_slot::<i64>(slot(2), at * 512, 0);
                files.push(builder.end_table(table));
            }
            (files, Vec::new())
        })
    };
    refused("ztoc-objects", make, open);
}

#[test]
fn many_files_that_are_one_table() {
    let make = || ztoc(|builder| (vec![file(builder, b"f"); 4 << 20], Vec::new()));
    refused("ztoc-objects", make, open);
}

#[test]
fn many_records_that_are_one_table() {
    let make = || {
        ztoc(|builder| {
            let record = builder.start_table();
            let record: WIPOffset<Table<'_>> = WIPOffset::new(builder.end_table(record).value());
            let records = builder.create_vector(&vec![record; 100_000]);
            let name = builder.create_byte_string(b"f");
            let kind = builder.create_string("reg");
            let mut files = Vec::new();
            for at in 1..=100_i64 {
                let table = builder.start_table();
                builder.push_slot_always(slot(0), name);
                builder.push_slot_always(slot(1), kind);
                builder.push_slot::<i64>(slot(2), at * 512, 0);
                builder.push_slot_always(slot(13), records);
                files.push(builder.end_table(table));
            }
            (files, Vec::new())
        })
    };
    refused("ztoc-objects", make, open);
}

#[test]
fn a_time_with_a_million_digits() {
    let input = ztoc(|builder| {
        let name = builder.create_byte_string(b"f");
        let kind = builder.create_string("reg");
        let time = builder.create_string(&format!("2023-11-14T22:13:20.{}Z", "1".repeat(1 << 20)));
        let table = builder.start_table();
        builder.push_slot_always(slot(0), name);
        builder.push_slot_always(slot(1), kind);
        builder.push_slot_always(slot(10), time);
        (vec![builder.end_table(table)], Vec::new())
    });
    assert!(open(&input).unwrap_err().to_string().contains("time is too long"));
}

/// A fine table whose packed part is this.
fn table(files: u32, packed: &[u8]) -> Vec<u8> {
    let mut bytes = b"SOCIFINE".to_vec();
    bytes.extend([1_u32, 0].into_iter().flat_map(u32::to_le_bytes));
    bytes.extend(Digest::of(b"layer").as_bytes());
    bytes.extend([1_u64 << 20, 1 << 20, 1 << 18].into_iter().flat_map(u64::to_le_bytes));
    bytes.extend([0; 40]);
    bytes.extend([2_u32, 0, 0, 0, 0, files].into_iter().flat_map(u32::to_le_bytes));
    bytes.extend(packed);
    bytes
}

fn open_table(bytes: &[u8]) -> Result<Ztoc, soci_core::ztoc::ZtocError> {
    Ztoc::open_table(Bytes::copy_from_slice(bytes))
}

#[test]
fn a_fine_table_that_unpacks_to_more_memory_than_its_length_pays_for() {
    let make = || {
        let mut packed = zstd::bulk::compress(&vec![0; 256 << 20], 1).unwrap();
        let padding = (8 << 20) - packed.len();
        packed.extend(0x184d_2a50_u32.to_le_bytes());
        packed.extend((padding as u32).to_le_bytes());
        packed.resize(packed.len() + padding, 0);
        table(256 << 20, &packed)
    };
    refused("ztoc-memory", make, open_table);
}

#[test]
fn a_fine_table_of_many_files_that_are_one_table() {
    let make = || {
        let files = ztoc(|builder| (vec![file(builder, b"f"); 10 << 20], Vec::new()));
        let packed = zstd::bulk::compress(&files, 1).unwrap();
        table(files.len() as u32, &packed)
    };
    refused("ztoc-objects", make, open_table);
}

#[test]
fn a_bundle_of_more_tables_than_an_image_has_layers() {
    let make = || {
        let mut bytes = b"SOCIFBDL".to_vec();
        bytes.extend([1_u32, 0, 200_000].into_iter().flat_map(u32::to_le_bytes));
        for number in 0..200_000_u32 {
            let mut layer = [0; 32];
            layer[..4].copy_from_slice(&number.to_le_bytes());
            bytes.extend(layer);
            bytes.extend(0_u64.to_le_bytes());
        }
        bytes
    };
    refused("bundle-tables", make, |bytes| Bundle::open(Bytes::copy_from_slice(bytes)));
}

/// Empty stored blocks before the first byte: upstream gives each a checkpoint with 32 KiB of window.
#[test]
fn a_layer_that_begins_with_many_empty_blocks() {
    let _one = crate::ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut layer = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    for _ in 0..65_000 {
        layer.extend([0, 0, 0, 0xff, 0xff]);
    }
    let tar = vec![0; 1024];
    layer.extend([1, 0, 4, 0xff, 0xfb]);
    layer.extend(&tar);
    layer.extend(crc32fast::hash(&tar).to_le_bytes());
    layer.extend(1024_u32.to_le_bytes());
    let built =
        crate::measured(layer.len(), || build_gzip(layer.as_slice(), &BuildOptions::default())).unwrap();
    let ztoc = Ztoc::open(built.ztoc.into()).unwrap();
    assert_eq!(ztoc.spans().len(), 16);
}
