//! A histogram of whole numbers, of one thread.

/// Numbers of values, by the least of its bounds that is not below the value. The bounds stand with
/// whoever records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Histogram<const N: usize> {
    counts: [u64; N],
    /// Above all bounds.
    above: u64,
    sum: u64,
}

impl<const N: usize> Default for Histogram<N> {
    fn default() -> Histogram<N> {
        Histogram {
            counts: [0; N],
            above: 0,
            sum: 0,
        }
    }
}

impl<const N: usize> Histogram<N> {
    /// `bounds` ascend.
    pub(super) fn record(&mut self, bounds: &[u64; N], value: u64) {
        let at = bounds.partition_point(|bound| *bound < value);
        *self.counts.get_mut(at).unwrap_or(&mut self.above) += 1;
        self.sum = self.sum.saturating_add(value);
    }

    pub(super) fn add(&mut self, other: &Histogram<N>) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
        self.above += other.above;
        self.sum = self.sum.saturating_add(other.sum);
    }

    pub(super) fn count(&self) -> u64 {
        self.counts.iter().sum::<u64>() + self.above
    }

    /// The sum of all values.
    pub(super) fn sum(&self) -> u64 {
        self.sum
    }

    /// The bounds, times `unit`, each with the number of values that have it as their least; at the
    /// end those above all.
    pub(super) fn buckets(&self, bounds: &[u64; N], unit: f64) -> Vec<(f64, u64)> {
        let bounds = bounds.iter().map(|bound| *bound as f64 * unit);
        let bounds = bounds.chain([f64::INFINITY]);
        bounds
            .zip(self.counts.into_iter().chain([self.above]))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_belong_to_what_is_below() {
        let bounds = [10, 20];
        let mut histogram = Histogram::default();
        for value in [0, 10, 11, 20, 21, u64::MAX - 62] {
            histogram.record(&bounds, value);
        }
        let buckets = histogram.buckets(&bounds, 0.5);
        assert_eq!(buckets, [(5.0, 2), (10.0, 2), (f64::INFINITY, 2)]);
        assert_eq!((histogram.count(), histogram.sum()), (6, u64::MAX));
        histogram.record(&bounds, 1);
        let twice = histogram.clone();
        histogram.add(&twice);
        assert_eq!((histogram.count(), histogram.sum()), (14, u64::MAX));
    }
}
