//! What is planned is the least that can be fetched: exactly the spans that hold a needed byte, each once, in the order of need.
//! The oracle is a table of which span each byte of a small layer is in, made by extracting the spans.

use std::sync::LazyLock;

use proptest::prelude::*;
use soci_core::prefetch::{ImageView, LayerFile, Needs, Plan, PlanItem, PrefetchSpan, map};
use soci_core::testing::{GzipShape, TarBuilder, TarEntry, TarFormat, content, gzip};
use soci_core::units::{ByteRange, SpanId};
use soci_core::ztoc::{
    BuildOptions, Checkpointing, FineOptions, Window, Ztoc, build_gzip, build_tar, build_zstd, extract_span,
};

/// Where the content of the only file is, and its length.
const CONTENT: u64 = 512;
const LENGTH: u64 = 450;

/// The same layer in each form in which one is served in parts.
static LAYERS: LazyLock<Vec<Layer>> = LazyLock::new(Layer::all);

/// A layer in one form, and the span of each of its plain bytes.
struct Layer {
    name: &'static str,
    ztoc: Ztoc,
    span_of: Vec<u32>,
}

impl Layer {
    fn new(name: &'static str, ztoc: Ztoc, stored: &[u8], plain: &[u8]) -> Self {
        let mut bytes = Vec::new();
        let mut span_of = Vec::new();
        for number in 0..ztoc.spans().len() {
            let range = ztoc.spans().compressed_range(SpanId(number));
            let window = Window::from_plain(&bytes);
            let window = ztoc.windows().and_then(|windows| windows.of(SpanId(number))).map(|_| &window);
            let stored = &stored[range.start as usize..range.end as usize];
            extract_span(&ztoc, SpanId(number), window, stored, &mut |chunk| {
                bytes.extend_from_slice(chunk);
                span_of.resize(span_of.len() + chunk.len(), number);
                Ok(())
            })
            .unwrap();
        }
        assert_eq!(bytes, plain, "{name}");
        let of_content = &span_of[CONTENT as usize..(CONTENT + LENGTH) as usize];
        assert!(
            of_content.last() > of_content.first().map(|first| first + 4).as_ref(),
            "{name} has few spans"
        );
        Self { name, ztoc, span_of }
    }

    fn all() -> Vec<Self> {
        let entry = TarEntry::file("dir/file", content(7, LENGTH as usize));
        let plain = TarBuilder::archive(TarFormat::Pax, [&entry]);
        let options = |span_size| BuildOptions { span_size, ..BuildOptions::default() };
        let open = |ztoc: Vec<u8>| Ztoc::open(ztoc.into()).unwrap();
        let flushed = gzip(&GzipShape::Flushed(23), &plain);
        let members = gzip(&GzipShape::Members(71), &plain);
        let frames: Vec<u8> =
            plain.chunks(67).flat_map(|chunk| zstd::bulk::compress(chunk, 1).unwrap()).collect();
        let fine = BuildOptions { fine: Some(FineOptions { span_size: 50 }), ..options(1000) };
        let hugging = Checkpointing::Boundaries(vec![600, 640, 641, 800, 900]);
        let hugging = BuildOptions { checkpointing: hugging, ..options(100) };
        let table = build_gzip(flushed.as_slice(), &fine).unwrap().fine.unwrap().table;
        vec![
            Self::new("tar", open(build_tar(plain.as_slice(), &options(64)).unwrap().ztoc), &plain, &plain),
            Self::new(
                "gzip",
                open(build_gzip(flushed.as_slice(), &options(40)).unwrap().ztoc),
                &flushed,
                &plain,
            ),
            Self::new(
                "gzip of members",
                open(build_gzip(members.as_slice(), &options(1)).unwrap().ztoc),
                &members,
                &plain,
            ),
            Self::new(
                "gzip, hugging",
                open(build_gzip(flushed.as_slice(), &hugging).unwrap().ztoc),
                &flushed,
                &plain,
            ),
            Self::new(
                "zstd",
                open(build_zstd(frames.as_slice(), &options(60)).unwrap().ztoc),
                &frames,
                &plain,
            ),
            Self::new("fine", Ztoc::open_table(table.into()).unwrap(), &flushed, &plain),
        ]
    }

    fn planned(&self, ranges: &[ByteRange]) -> Vec<PrefetchSpan> {
        let ranges: Vec<_> = ranges.iter().map(|range| (0, *range)).collect();
        let needs = Needs { ranges, ..Needs::default() };
        let mut mapped = map(&needs, &[Some(self.ztoc.spans())]);
        assert_eq!((mapped.layers.len(), mapped.unspanned_bytes), (1, 0));
        mapped.layers.remove(0)
    }

    /// The spans of these bytes, in the order of the bytes.
    fn spans(&self, ranges: &[ByteRange]) -> Vec<u32> {
        let mut spans = Vec::new();
        for range in ranges {
            for span in &self.span_of[range.start as usize..range.end as usize] {
                if spans.last() != Some(span) && !spans.contains(span) {
                    spans.push(*span);
                }
            }
        }
        spans
    }
}

#[test]
fn of_every_range_the_spans_that_hold_its_bytes_are_planned_and_no_other() {
    for layer in &*LAYERS {
        for start in CONTENT..CONTENT + LENGTH {
            for end in start + 1..=CONTENT + LENGTH {
                let (first, last) = (layer.span_of[start as usize], layer.span_of[end as usize - 1]);
                let planned = layer.planned(&[ByteRange::new(start, end)]);
                let [span] = &planned[..] else { panic!("{}: {planned:?}", layer.name) };
                assert_eq!(
                    (span.start_span, span.end_span, span.priority, &span.ranges[..]),
                    (first, last, 1, &[[start, end]][..]),
                    "{}: {start}..{end}",
                    layer.name
                );
            }
        }
    }
}

#[test]
fn of_a_file_its_own_bytes_are_planned() {
    let layer = &LAYERS[0];
    let files: Vec<LayerFile> = layer.ztoc.files().iter().map(LayerFile::from).collect();
    let view = ImageView::build([(0, &files)]);
    let item = |start, end| PlanItem {
        path: b"dir/file"[..].into(),
        range: ByteRange::new(start, end),
        first_need_ns: 0,
    };
    let items = vec![item(4096, 8192), item(100, 4096), item(0, 1)];
    let plan = Plan { items, asked: 3, must_have: 3 };
    let needs = Needs::of(&plan, &view);
    let of_content = |start, end| (0, ByteRange::new(CONTENT + start, CONTENT + end));
    assert_eq!(needs.ranges, [of_content(100, LENGTH), of_content(0, 1)]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn of_several_ranges_each_span_is_planned_once_at_its_first_need(
        ranges in prop::collection::vec((0..LENGTH, 1..120u64), 1..12),
    ) {
        let ranges: Vec<_> = ranges
            .into_iter()
            .map(|(start, length)| ByteRange::new(CONTENT + start, CONTENT + (start + length).min(LENGTH)))
            .collect();
        for layer in &*LAYERS {
            let planned = layer.planned(&ranges);
            prop_assert!(planned.iter().map(|span| span.priority).eq(1..=planned.len() as u64));
            let spans: Vec<u32> = planned.iter().flat_map(|span| span.start_span..=span.end_span).collect();
            prop_assert_eq!(spans, layer.spans(&ranges), "{}", layer.name);
            let mut named = vec![0; layer.span_of.len()];
            for span in &planned {
                for byte in span.ranges.iter().flat_map(|[start, end]| *start..*end) {
                    named[byte as usize] += 1;
                    let of = layer.span_of[byte as usize];
                    prop_assert!((span.start_span..=span.end_span).contains(&of));
                }
            }
            for (byte, times) in named.iter().enumerate() {
                let is_needed = ranges.iter().any(|range| range.start <= byte as u64 && (byte as u64) < range.end);
                prop_assert_eq!(*times, usize::from(is_needed), "byte {} of {}", byte, layer.name);
            }
        }
    }
}
