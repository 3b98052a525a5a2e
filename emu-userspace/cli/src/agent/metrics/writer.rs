//! Families of samples, written as OpenMetrics text.
use std::fmt;

use emu_common::{layout::QueueDelayHistogram, model::queue_delay};
use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

/// Names and values.
pub(super) type Labels = Vec<(&'static str, String)>;

/// Writes families of samples.
pub(super) struct Writer<'a, 'b>(pub &'a mut DescriptorEncoder<'b>);

impl Writer<'_, '_> {
    pub fn counter(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels, u64)>,
    ) -> fmt::Result {
        let mut family = self
            .0
            .encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in samples {
            let value = ConstCounter::new(value);
            // Without labels there is one sample, which needs no braces.
            if labels.is_empty() {
                return value.encode(family);
            }
            value.encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    pub fn histogram(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels, QueueDelayHistogram)>,
    ) -> fmt::Result {
        let mut family = self
            .0
            .encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (labels, waits) in samples {
            family
                .encode_family(&labels)?
                .encode_histogram::<NoLabelSet>(
                    waits.sum_ns as f64 / 1e9,
                    waits.packets(),
                    &buckets(&waits),
                    None,
                )?;
        }
        Ok(())
    }

    pub fn gauge(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels, f64)>,
    ) -> fmt::Result {
        let mut family = self
            .0
            .encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in samples {
            let value = ConstGauge::new(value);
            // Without labels there is one sample, which needs no braces.
            if labels.is_empty() {
                return value.encode(family);
            }
            value.encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

/// Buckets of a queue-delay histogram: upper bounds in seconds, with their cumulative counts.
fn buckets(waits: &QueueDelayHistogram) -> Vec<(f64, u64)> {
    let bound = |bucket| queue_delay::bound_ns(bucket).map_or(f64::INFINITY, |ns| ns as f64 / 1e9);
    let buckets = (0..).zip(waits.buckets);
    buckets
        .map(|(bucket, count)| (bound(bucket), count))
        .collect()
}
