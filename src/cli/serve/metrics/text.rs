//! The names of the metrics, and their text: OpenMetrics, or Prometheus' own form for those who
//! don't know that one.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, MetricEncoder, NoLabelSet,
    prometheus_text, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use crate::ByRoute;
use crate::streamer::Page;

use super::board::{Figures, Known};
use super::counts::{Counts, DURATIONS, ENDINGS, SIZES};

/// All that is told.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) threads: Vec<Known>,
    pub(super) process: ProcessFigures,
    /// Lines of the access log that were lost; `None` where there is no such log.
    pub(super) log_dropped: Option<u64>,
    /// How often all that a SIGHUP asks for was read, and how often something could not be.
    pub(super) reloads: [u64; 2],
    /// Whether all could be read the last time, and when it was, in seconds since 1970.
    pub(super) settings: (bool, f64),
}

/// What is known of the process; what could not be found out is not told.
#[derive(Debug)]
pub(super) struct ProcessFigures {
    pub(super) started: f64,
    pub(super) cpu_seconds: f64,
    pub(super) resident_bytes: Option<u64>,
    pub(super) open_descriptors: Option<u64>,
    pub(super) most_descriptors: Option<u64>,
}

/// Writes the page, in the form that the client takes.
///
/// # Errors
/// None but a failure of the encoder.
pub(super) fn page(told: Told, accept: Option<&[u8]>) -> Result<Page, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(told));
    let mut text = String::new();
    let wanted = accept.map(String::from_utf8_lossy).unwrap_or_default();
    let content_type = if wanted.contains("application/openmetrics-text") {
        text::encode(&mut text, &registry)?;
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    } else {
        prometheus_text::encode(&mut text, &registry)?;
        "text/plain; version=0.0.4; charset=utf-8"
    };
    Ok(Page {
        content_type,
        body: text.into_bytes(),
    })
}

/// A sample's labels.
type Labels<'a> = Vec<(&'static str, &'a str)>;

struct Metrics<'a>(DescriptorEncoder<'a>);

impl Metrics<'_> {
    /// A counter; `name` is without its unit and `_total`.
    fn counter<'l, N: EncodeCounterValue>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        samples: impl IntoIterator<Item = (Labels<'l>, N)>,
    ) -> fmt::Result {
        self.family(
            MetricType::Counter,
            (name, help, unit),
            samples,
            |mut sample, value| sample.encode_counter::<NoLabelSet, _, u64>(value, None),
        )
    }

    fn gauge<'l, N: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        samples: impl IntoIterator<Item = (Labels<'l>, N)>,
    ) -> fmt::Result {
        self.family(
            MetricType::Gauge,
            (name, help, unit),
            samples,
            |mut sample, value| sample.encode_gauge(value),
        )
    }

    fn family<'l, N>(
        &mut self,
        kind: MetricType,
        (name, help, unit): (&str, &str, Option<Unit>),
        samples: impl IntoIterator<Item = (Labels<'l>, N)>,
        encode: impl Fn(MetricEncoder<'_>, &N) -> fmt::Result,
    ) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, unit.as_ref(), kind)?;
        for (labels, value) in samples {
            encode(encoder.encode_family(&labels)?, &value)?;
        }
        Ok(())
    }

    /// A gauge that is always 1, whose labels are what it tells.
    fn info(&mut self, name: &str, help: &str, all: Vec<Labels<'_>>) -> fmt::Result {
        let kind = MetricType::Info;
        let mut encoder = self.0.encode_descriptor(name, help, None, kind)?;
        all.iter()
            .try_for_each(|labels| encoder.encode_info(labels))
    }

    fn histogram(
        &mut self,
        name: &str,
        help: &str,
        unit: Unit,
        (sum, count): (f64, u64),
        buckets: &[(f64, u64)],
    ) -> fmt::Result {
        let kind = MetricType::Histogram;
        let mut encoder = self.0.encode_descriptor(name, help, Some(&unit), kind)?;
        encoder.encode_histogram::<NoLabelSet>(sum, count, buckets, None)
    }
}

/// The one sample of a metric without labels.
fn one<N>(value: N) -> [(Labels<'static>, N); 1] {
    [(vec![], value)]
}

fn labelled<N, const L: usize>(
    label: &'static str,
    samples: [(&'static str, N); L],
) -> [(Labels<'static>, N); L] {
    samples.map(|(value, n)| (vec![(label, value)], n))
}

fn by_route(bytes: &ByRoute) -> [(Labels<'static>, u64); 4] {
    labelled(
        "route",
        [
            ("copy", bytes.copy),
            ("chain", bytes.chain),
            ("inline", bytes.inline),
            ("sendfile", bytes.sendfile),
        ],
    )
}

impl Collector for Told {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut metrics = Metrics(encoder);
        let names: Vec<_> = (0..self.threads.len()).map(|n| n.to_string()).collect();
        let all: Vec<_> = names
            .iter()
            .map(String::as_str)
            .zip(&self.threads)
            .collect();
        let known = |(name, known): &(_, &Known)| Some((*name, known.figures.clone()?));
        let figures: Vec<(&str, Figures)> = all.iter().filter_map(known).collect();
        let mut counts = Counts::default();
        figures
            .iter()
            .for_each(|(_, figures)| counts.add(&figures.counts));
        self.process.encode(&mut metrics)?;
        self.service(&mut metrics, &all, &figures)?;
        connections(&mut metrics, &counts, &figures)?;
        requests(&mut metrics, &counts)?;
        transports(&mut metrics, &figures)?;
        files(&mut metrics, &figures)?;
        proactors(&mut metrics, &figures)
    }
}

impl ProcessFigures {
    fn encode(&self, metrics: &mut Metrics<'_>) -> fmt::Result {
        let seconds = || Some(Unit::Seconds);
        let help = "When the process began, since 1970";
        metrics.gauge("process_start_time", help, seconds(), one(self.started))?;
        let help = "Processor time, of user and system, of all threads";
        metrics.counter("process_cpu", help, seconds(), one(self.cpu_seconds))?;
        if let Some(bytes) = self.resident_bytes {
            let help = "Memory that is resident";
            metrics.gauge(
                "process_resident_memory",
                help,
                Some(Unit::Bytes),
                one(bytes),
            )?;
        }
        if let Some(open) = self.open_descriptors {
            metrics.gauge("process_open_fds", "Open descriptors", None, one(open))?;
        }
        if let Some(most) = self.most_descriptors {
            let help = "The most descriptors that may be open";
            metrics.gauge("process_max_fds", help, None, one(most))?;
        }
        Ok(())
    }
}

impl Told {
    fn service(
        &self,
        metrics: &mut Metrics<'_>,
        all: &[(&str, &Known)],
        figures: &[(&str, Figures)],
    ) -> fmt::Result {
        let version = vec![("version", env!("CARGO_PKG_VERSION"))];
        metrics.info("spliceport_build", "The program", vec![version])?;
        let threads = figures.iter().map(|(name, figures)| {
            vec![
                ("thread", *name),
                ("backend", &*figures.backend),
                ("reason", &*figures.reason),
            ]
        });
        let help = "What each serving thread's loop runs on, and why";
        metrics.info("spliceport_thread", help, threads.collect())?;
        let up = |known: &Known| u64::from(known.figures.is_some() && !known.asked);
        let ups = all
            .iter()
            .map(|(name, known)| (vec![("thread", *name)], up(known)));
        let help = "Whether the thread's loop answered this scrape in time";
        metrics.gauge("spliceport_thread_up", help, None, ups)?;
        let missing = all.iter().filter(|(_, known)| up(known) == 0).count();
        let help = "Threads that did not answer this scrape in time: their figures are of before";
        metrics.gauge(
            "spliceport_scrape_threads_missing",
            help,
            None,
            one(missing),
        )?;
        if let Some(dropped) = self.log_dropped {
            let help = "Lines of the access log that were lost, since it could not follow";
            metrics.counter(
                "spliceport_access_log_lines_dropped",
                help,
                None,
                one(dropped),
            )?;
        }
        let [succeeded, failed] = self.reloads;
        let reloads = labelled("result", [("ok", succeeded), ("failed", failed)]);
        let help =
            "How often the settings, error pages and the certificate were read again (SIGHUP)";
        metrics.counter("spliceport_config_reloads", help, None, reloads)?;
        let help = "Whether all of that could be read the last time";
        let (successful, at) = self.settings;
        let successful = u64::from(successful);
        metrics.gauge(
            "spliceport_config_last_reload_successful",
            help,
            None,
            one(successful),
        )?;
        let help = "When all of it was read, since 1970";
        let name = "spliceport_config_last_reload_success_timestamp";
        metrics.gauge(name, help, Some(Unit::Seconds), one(at))
    }
}

fn connections(
    metrics: &mut Metrics<'_>,
    counts: &Counts,
    figures: &[(&str, Figures)],
) -> fmt::Result {
    let help = "Connections accepted, those that were turned away among them";
    metrics.counter(
        "spliceport_connections_accepted",
        help,
        None,
        one(counts.accepted),
    )?;
    let open = figures
        .iter()
        .map(|(name, f)| (vec![("thread", *name)], f.connections));
    metrics.gauge(
        "spliceport_connections",
        "Connections that stand",
        None,
        open,
    )?;
    let away = labelled("how", [("told", counts.told), ("unheard", counts.unheard)]);
    let help = "Connections above the limit: told so with 503, or closed unheard";
    metrics.counter("spliceport_connections_turned_away", help, None, away)
}

fn requests(metrics: &mut Metrics<'_>, counts: &Counts) -> fmt::Result {
    let statuses: Vec<_> = counts
        .answers
        .iter()
        .map(|a| a.status.map_or("none".to_owned(), |s| s.to_string()))
        .collect();
    let answers = counts.answers.iter().zip(&statuses).map(|(a, status)| {
        let method = a.method.unwrap_or("other");
        (
            vec![("method", method), ("status", status.as_str())],
            a.count,
        )
    });
    let help = "Requests that are over; status none: there was no response";
    metrics.counter("spliceport_requests", help, None, answers)?;
    let help = "Requests taken up whose responses have not been sent";
    let under_way = counts.taken - counts.over;
    metrics.gauge("spliceport_requests_in_flight", help, None, one(under_way))?;
    let help = "How responses ended: whole, or cut since the client was gone or too slow, since \
                something failed here, or at the server's end";
    let endings = ENDINGS.into_iter().zip(counts.endings);
    let endings = endings.map(|(ending, n)| (vec![("ending", ending)], n));
    metrics.counter("spliceport_responses_ended", help, None, endings)?;
    let bytes = || Some(Unit::Bytes);
    let help = "Header sections of responses that the kernel took";
    metrics.counter(
        "spliceport_response_header",
        help,
        bytes(),
        one(counts.header_bytes),
    )?;
    let help = "Content of responses that the kernel took";
    metrics.counter(
        "spliceport_response_body",
        help,
        bytes(),
        one(counts.content_bytes),
    )?;
    let durations = &counts.durations;
    metrics.histogram(
        "spliceport_request_duration",
        "From a request's first byte until the kernel had taken its response",
        Unit::Seconds,
        (durations.sum() as f64 / 1e9, durations.count()),
        &durations.buckets(&DURATIONS, 1e-9),
    )?;
    let sizes = &counts.sizes;
    metrics.histogram(
        "spliceport_response_size",
        "Content of each response that the kernel took",
        Unit::Bytes,
        (sizes.sum() as f64, sizes.count()),
        &sizes.buckets(&SIZES, 1.0),
    )
}

fn transports(metrics: &mut Metrics<'_>, figures: &[(&str, Figures)]) -> fmt::Result {
    let (mut sent, mut received) = (ByRoute::default(), ByRoute::default());
    let (mut written, mut sends, mut receives, mut refused, mut no_pipe) = (0, 0, 0, 0, 0);
    let names = [
        "succeeded",
        "truncated",
        "cancelled",
        "timed_out",
        "peer_gone",
        "failed",
        "closing",
    ];
    let mut ends = names.map(|name| (name, 0));
    for (_, Figures { transports: t, .. }) in figures {
        for (sum, more) in [(&mut sent, &t.sent), (&mut received, &t.received)] {
            sum.copy += more.copy;
            sum.chain += more.chain;
            sum.inline += more.inline;
            sum.sendfile += more.sendfile;
        }
        let e = &t.ends;
        let more = [
            e.succeeded,
            e.truncated,
            e.cancelled,
            e.timed_out,
            e.peer_gone,
            e.failed,
            e.closing,
        ];
        ends.iter_mut()
            .zip(more)
            .for_each(|(sum, more)| sum.1 += more);
        written += t.written;
        sends += t.sends;
        receives += t.receives;
        refused += t.refused;
        no_pipe += t.no_pipe;
    }
    let bytes = || Some(Unit::Bytes);
    let help = "Bytes of files that the kernel took, by the route that carried them";
    metrics.counter("spliceport_sent", help, bytes(), by_route(&sent))?;
    let help = "Bytes of uploads that are in files, by the route that carried them";
    metrics.counter("spliceport_received", help, bytes(), by_route(&received))?;
    let help = "Bytes from memory that the kernel took: header sections, and small files with them";
    metrics.counter("spliceport_written", help, bytes(), one(written))?;
    let help = "Files, or parts of files, that were to be sent";
    metrics.counter("spliceport_sends", help, None, one(sends))?;
    let help = "Files that were to be received";
    metrics.counter("spliceport_receives", help, None, one(receives))?;
    let help = "How the sends and receives of files ended";
    metrics.counter(
        "spliceport_transfers_ended",
        help,
        None,
        labelled("end", ends),
    )?;
    let help = "Transfers that went on by copying since the kernel refused to splice";
    metrics.counter("spliceport_splices_refused", help, None, one(refused))?;
    let help = "Pieces that were copied, or put off, since there was no pipe to be had";
    metrics.counter("spliceport_pipes_missing", help, None, one(no_pipe))
}

fn files(metrics: &mut Metrics<'_>, figures: &[(&str, Figures)]) -> fmt::Result {
    let servers = || figures.iter().map(|(_, figures)| &figures.server);
    let sum = |get: fn(&crate::streamer::ServerStats) -> u64| servers().map(get).sum::<u64>();
    let results = labelled(
        "result",
        [
            ("hit", sum(|s| s.open_files.hits)),
            ("miss", sum(|s| s.open_files.misses)),
        ],
    );
    let help = "Whether the requested file was open already, and unchanged";
    metrics.counter("spliceport_open_file_lookups", help, None, results)?;
    let help = "How often an open file was asked whether it had changed";
    let checks = sum(|s| s.open_files.checks);
    metrics.counter(
        "spliceport_open_file_revalidations",
        help,
        None,
        one(checks),
    )?;
    let help = "Files kept open between requests";
    let open = sum(|s| s.open_files.open as u64);
    metrics.gauge("spliceport_open_files", help, None, one(open))?;
    let (begun, placed) = (sum(|s| s.uploads.begun), sum(|s| s.uploads.placed));
    let failed = sum(|s| s.uploads.failed);
    let help = "Uploads whose content was taken";
    metrics.counter("spliceport_uploads_begun", help, None, one(begun))?;
    let ended = labelled("result", [("placed", placed), ("failed", failed)]);
    let help = "Uploads that took their places, or came to nothing";
    metrics.counter("spliceport_uploads_ended", help, None, ended)
}

fn proactors(metrics: &mut Metrics<'_>, figures: &[(&str, Figures)]) -> fmt::Result {
    type Get = fn(&crate::proactor::Stats) -> u64;
    let of = |get: Get| {
        let samples = figures.iter();
        samples.map(move |(name, f)| (vec![("thread", *name)], get(&f.proactor)))
    };
    let counters: [(&str, &str, Get); 7] = [
        (
            "spliceport_operations_submitted",
            "Operations submitted to the proactor",
            |s| s.submitted,
        ),
        (
            "spliceport_operations_completed",
            "Completions delivered by the proactor",
            |s| s.completed,
        ),
        (
            "spliceport_operation_cancels",
            "Cancels of operations asked for",
            |s| s.cancels,
        ),
        (
            "spliceport_callback_panics",
            "Callbacks that panicked: each is a fault of the program",
            |s| s.panics,
        ),
        (
            "spliceport_waits",
            "System calls that entered the ring, or waited at the emulated port's poller",
            |s| s.waits,
        ),
        (
            "spliceport_chains",
            "Linked chains submitted to the ring, or fills given to a worker",
            |s| s.chains,
        ),
        (
            "spliceport_pipes_reclaimed",
            "Times that a waiting transfer had to give its pipe to another",
            |s| s.pipes_taken,
        ),
    ];
    for (name, help, get) in counters {
        metrics.counter(name, help, None, of(get))?;
    }
    let gauges: [(&str, &str, Get); 5] = [
        (
            "spliceport_operations_in_flight",
            "Operations under way",
            |s| s.in_flight as u64,
        ),
        ("spliceport_pipes_leased", "Pipes in use", |s| {
            s.pipes_leased as u64
        }),
        ("spliceport_pipes_idle", "Pipes open and not in use", |s| {
            s.pipes_idle as u64
        }),
        (
            "spliceport_pipes_limit",
            "The most pipes in use at a time",
            |s| s.pipes_limit as u64,
        ),
        ("spliceport_workers", "Threads of the worker pool", |s| {
            s.workers as u64
        }),
    ];
    for (name, help, get) in gauges {
        metrics.gauge(name, help, None, of(get))?;
    }
    Ok(())
}
