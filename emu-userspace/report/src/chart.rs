//! The contents of a chart, as plain data.

/// A chart with its axes and series; the legend lists the series in their order.
#[derive(Debug, Clone, PartialEq)]
pub struct Chart {
    pub(super) title: String,
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) series: Vec<Series>,
    pub(super) marks: Vec<(String, f64)>,
}

/// One axis: its label with the unit, and its scale. By default its range covers the data.
#[derive(Debug, Clone, PartialEq)]
pub struct Axis {
    pub(super) label: String,
    pub(super) log: bool,
    pub(super) from_zero: bool,
    pub(super) range: Option<(f64, f64)>,
    pub(super) categories: Vec<String>,
}

/// A point, and the interval of its value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) spread: Option<(f64, f64)>,
}

/// The way in which a series is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChartKind {
    Line,
    Step,
    Points,
    Bars,
}

/// A series of points with one name and colour.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Series {
    pub name: String,
    pub kind: ChartKind,
    pub points: Vec<Point>,
}

impl Point {
    /// A value without an interval.
    pub fn new(x: f64, y: f64) -> Self {
        Self { x, y, spread: None }
    }

    /// Adds a whisker from `low` to `high`.
    #[must_use]
    pub fn between(self, low: f64, high: f64) -> Self {
        let spread = Some((low, high));
        Self { spread, ..self }
    }
}

impl From<(f64, f64)> for Point {
    fn from((x, y): (f64, f64)) -> Self {
        Self::new(x, y)
    }
}

impl Axis {
    /// A linear axis; by convention the label ends in the unit.
    pub fn new(label: impl Into<String>) -> Self {
        Self {
            label: label.into(),
            log: false,
            from_zero: false,
            range: None,
            categories: Vec::new(),
        }
    }

    /// Makes the axis logarithmic. Points at or below zero are left out.
    #[must_use]
    pub fn log(mut self) -> Self {
        self.log = true;
        self
    }

    /// Starts the range at zero, whatever the data; without effect on a logarithmic axis.
    #[must_use]
    pub fn from_zero(mut self) -> Self {
        self.from_zero = true;
        self
    }

    /// Sets the range. Points outside are drawn at its edge.
    #[must_use]
    pub fn range(mut self, low: f64, high: f64) -> Self {
        self.range = Some((low, high));
        self
    }

    /// Shows names instead of numbers: the point with `x` = 0 is placed at the first name.
    #[must_use]
    pub fn categories<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Self {
        self.categories = names.into_iter().map(Into::into).collect();
        self
    }
}

impl Chart {
    /// A chart without series.
    pub fn new(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            x: Axis::new(""),
            y: Axis::new(""),
            series: Vec::new(),
            marks: Vec::new(),
        }
    }

    /// Sets the horizontal axis.
    #[must_use]
    pub fn x(mut self, axis: Axis) -> Self {
        self.x = axis;
        self
    }

    /// Sets the vertical axis.
    #[must_use]
    pub fn y(mut self, axis: Axis) -> Self {
        self.y = axis;
        self
    }

    /// Adds points joined by straight lines. A series without a name is not in the legend
    /// and has the colour of the previous series; this groups hundreds of curves of one
    /// kind.
    #[must_use]
    pub fn line<P: Into<Point>>(
        self,
        name: impl Into<String>,
        points: impl IntoIterator<Item = P>,
    ) -> Self {
        self.with(name, ChartKind::Line, points)
    }

    /// Adds a step curve, whose value holds until the next point.
    #[must_use]
    pub fn step<P: Into<Point>>(
        self,
        name: impl Into<String>,
        points: impl IntoIterator<Item = P>,
    ) -> Self {
        self.with(name, ChartKind::Step, points)
    }

    /// Adds single points, without lines between them.
    #[must_use]
    pub fn points<P: Into<Point>>(
        self,
        name: impl Into<String>,
        points: impl IntoIterator<Item = P>,
    ) -> Self {
        self.with(name, ChartKind::Points, points)
    }

    /// Adds a cumulative distribution: the share of samples at or below each value, 0 to 1.
    #[must_use]
    pub fn cdf(self, name: impl Into<String>, samples: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = samples.into_iter().filter(|x| x.is_finite()).collect();
        sorted.sort_unstable_by(f64::total_cmp);
        let all = sorted.len();
        // A thousand steps are finer than the picture's pixels.
        let every = all.div_ceil(1000).max(1);
        let first = sorted.first().map(|x| (*x, 0.0));
        let steps = sorted
            .iter()
            .enumerate()
            .filter(|(i, _)| i % every == 0 || i + 1 == all)
            .map(|(i, x)| (*x, (i + 1) as f64 / all as f64));
        self.step(name, first.into_iter().chain(steps).collect::<Vec<_>>())
    }

    /// Adds bars next to those of the other bar series, one per category of the x axis.
    #[must_use]
    pub fn bars(self, name: impl Into<String>, values: impl IntoIterator<Item = f64>) -> Self {
        let points = values.into_iter().enumerate();
        self.with(name, ChartKind::Bars, points.map(|(i, y)| (i as f64, y)))
    }

    /// Adds a dashed horizontal line with a label: a goal, a bound, the model.
    #[must_use]
    pub fn mark_y(mut self, name: impl Into<String>, y: f64) -> Self {
        self.marks.push((name.into(), y));
        self
    }

    fn with<P: Into<Point>>(
        mut self,
        name: impl Into<String>,
        kind: ChartKind,
        points: impl IntoIterator<Item = P>,
    ) -> Self {
        let points = points.into_iter().map(Into::into);
        self.series.push(Series {
            name: name.into(),
            kind,
            points: points
                .filter(|p| p.x.is_finite() && p.y.is_finite())
                .collect(),
        });
        self
    }

    /// The title above the chart.
    pub fn title(&self) -> &str {
        &self.title
    }
}
