//! The parameters of the model, what each means, and where its default comes from. Plain data.

use std::fmt;
use std::str::FromStr;

/// The way to the registry.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Link {
    /// Seconds from a request to the first byte of its answer, without the registry's own time. 0 to 60.
    pub round_trip: f64,
    /// Bytes of content a second, all connections together. 1e3 to 1e12.
    pub bandwidth: f64,
    /// Connections at most, all to one host. 1 to 1024.
    pub connections: usize,
}

impl Link {
    /// Connections of the snapshotter to one host.
    pub const CONNECTIONS: usize = 64;

    /// A link with a round trip in milliseconds and a bandwidth in Mbit/s; both are brought into their ranges.
    pub fn new(round_trip_ms: f64, mbit: f64) -> Self {
        let within = |value: f64, least: f64, most: f64| if value >= least { value.min(most) } else { least };
        Self {
            round_trip: within(round_trip_ms / 1e3, 0.0, 60.0),
            bandwidth: within(mbit * 125e3, 1e3, 1e12),
            connections: Self::CONNECTIONS,
        }
    }
}

/// `RTT/BANDWIDTH`, as in `5ms/100Mbit`.
impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}ms/{}Mbit", round(self.round_trip * 1e3), round(self.bandwidth / 125e3))
    }
}

/// To a thousandth, so that what was read is written.
fn round(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

impl FromStr for Link {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not RTT/BANDWIDTH, as in 5ms/100Mbit or 0.1s/1Gbit");
        let (round_trip, bandwidth) = text.split_once('/').ok_or_else(wrong)?;
        let number = |text: &str, units: &[(&str, f64)]| {
            let (number, factor) =
                units.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)))?;
            let value =
                number.trim().parse::<f64>().ok().filter(|value| value.is_finite() && *value >= 0.0)?;
            Some(value * factor)
        };
        let round_trip_ms = number(round_trip, &[("ms", 1.0), ("s", 1e3)]).ok_or_else(wrong)?;
        let mbit = number(bandwidth, &[("kbit", 1e-3), ("Mbit", 1.0), ("Gbit", 1e3)]).ok_or_else(wrong)?;
        let link = Self::new(round_trip_ms, mbit);
        let is_kept =
            link.round_trip * 1e3 >= round_trip_ms && (link.bandwidth / 125e3 - mbit).abs() <= mbit * 1e-9;
        if is_kept { Ok(link) } else { Err(format!("{text:?} is out of range: 0 to 60s, 8kbit to 8000Gbit")) }
    }
}

/// The machine that starts the container, and the registry's speed. Times in seconds, speeds in bytes a second of one core.
///
/// The defaults are of the machine that docs/planning.md names: two cores that also run the registry and the link.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Node {
    /// Cores.
    pub cores: usize,
    /// Plain bytes that one core checks, inflates and stores of spans.
    pub inflate: f64,
    /// Plain bytes that one core checks, decompresses and stores of a pack.
    pub unpack_pack: f64,
    /// Plain bytes that one core inflates, hashes and writes to files, of whole layers.
    pub unpack: f64,
    /// To make one file of a whole layer.
    pub file: f64,
    /// To read bytes that are on the node and that the kernel does not have: one request through FUSE.
    pub read: f64,
    /// To find out about an image, besides round trips: the client, the snapshotter, gRPC.
    pub find: f64,
    /// To make one layer ready and mount it.
    pub mount: f64,
    /// The same for each entry of the layer's tar: its table is checked and written down for the kernel.
    pub entry: f64,
    /// From the last layer to the workload's first instruction.
    pub launch: f64,
    /// From a request's arrival to the registry's first byte.
    pub registry: f64,
    /// Round trips, one after the other, from the request for the image until it is known what to fetch, connections included.
    pub hops: f64,
    /// The share of the link's bandwidth that content gets, 0 to 1: the rest is headers, packets that are sent again, and pauses.
    pub goodput: f64,
}

impl Default for Node {
    fn default() -> Self {
        Self {
            cores: 2,
            inflate: 200e6,
            unpack_pack: 300e6,
            unpack: 200e6,
            file: 60e-6,
            read: 60e-6,
            find: 0.035,
            mount: 4e-3,
            entry: 4e-6,
            launch: 0.025,
            registry: 3e-3,
            hops: 6.0,
            goodput: 0.92,
        }
    }
}

impl Node {
    /// Sets the parameter of this name; `None`: there is none of it, or the value is not positive and finite.
    pub fn set(&mut self, name: &str, value: f64) -> Option<()> {
        if !(value.is_finite() && value > 0.0) {
            return None;
        }
        let parameter = match name {
            "cores" => {
                self.cores = value as usize;
                return Some(());
            }
            "inflate" => &mut self.inflate,
            "unpack_pack" => &mut self.unpack_pack,
            "unpack" => &mut self.unpack,
            "file" => &mut self.file,
            "read" => &mut self.read,
            "find" => &mut self.find,
            "mount" => &mut self.mount,
            "entry" => &mut self.entry,
            "launch" => &mut self.launch,
            "registry" => &mut self.registry,
            "hops" => &mut self.hops,
            "goodput" => &mut self.goodput,
            _ => return None,
        };
        *parameter = value;
        Some(())
    }
}

/// How the image was prepared: the settings of `soci create`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Plain bytes of a span.
    pub span_size: u64,
    /// Layers with fewer compressed bytes have no zTOC, and come whole.
    pub min_layer_size: u64,
    /// With prefetch: spans begin and end with what is needed; needs that are at most so many bytes apart share a span. `None`: even
    /// spans.
    pub hug: Option<u64>,
    /// Plain bytes of a span of a fine index.
    pub fine_span_size: u64,
}

impl Default for Layout {
    /// The defaults of `soci create` with `--span-layout trace`.
    fn default() -> Self {
        Self { span_size: 4 << 20, min_layer_size: 10 << 20, hug: Some(256 << 10), fine_span_size: 256 << 10 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_read_as_it_is_written() {
        for text in ["5ms/100Mbit", "1ms/1000Mbit", "100ms/25Mbit", "0ms/8.5Mbit"] {
            assert_eq!(text.parse::<Link>().unwrap().to_string(), text);
        }
        assert_eq!("0.1s/1Gbit".parse::<Link>(), Ok(Link::new(100.0, 1000.0)));
        for text in [
            "",
            "5/100",
            "5ms",
            "5ms/100",
            "-1ms/1Mbit",
            "xms/1Mbit",
            "infms/1Mbit",
            "61s/1Mbit",
            "1ms/0Mbit",
        ] {
            assert!(text.parse::<Link>().is_err(), "{text}");
        }
        assert!((Link::new(f64::NAN, f64::NAN).bandwidth - 1e3).abs() < 1e-6);
    }
}
