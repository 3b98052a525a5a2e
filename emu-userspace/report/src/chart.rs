//! What a chart shows, as plain data.

/// A chart: axes, and series of points in the order of the legend.
#[derive(Debug, Clone, PartialEq)]
pub struct Chart {
    pub(super) title: String,
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) series: Vec<Series>,
    pub(super) marks: Vec<(String, f64)>,
}

/// One axis: its label with the unit, and how it runs. Its range is that of the data.
#[derive(Debug, Clone, PartialEq)]
pub struct Axis {
    pub(super) label: String,
    pub(super) log: bool,
    pub(super) from_zero: bool,
    pub(super) range: Option<(f64, f64)>,
    pub(super) categories: Vec<String>,
}

/// A point, and how far its value spreads.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) spread: Option<(f64, f64)>,
}

/// How points become a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Line,
    Step,
    Points,
    Bars,
}

/// Points that belong together.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Series {
    pub name: String,
    pub kind: Kind,
    pub points: Vec<Point>,
}

impl Point {
    /// A value without a spread.
    pub fn new(x: f64, y: f64) -> Self {
        Self { x, y, spread: None }
    }

    /// The same with a whisker from `low` to `high`.
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
    /// A linear axis; the label ends in the unit.
    pub fn new(label: impl Into<String>) -> Self {
        Self {
            label: label.into(),
            log: false,
            from_zero: false,
            range: None,
            categories: Vec::new(),
        }
    }

    /// Logarithmic. Points at or below zero are left out.
    #[must_use]
    pub fn log(mut self) -> Self {
        self.log = true;
        self
    }

    /// Begins at zero, whatever the data; without effect on a logarithmic axis.
    #[must_use]
    pub fn from_zero(mut self) -> Self {
        self.from_zero = true;
        self
    }

    /// A given range. Points outside are drawn at its edge.
    #[must_use]
    pub fn range(mut self, low: f64, high: f64) -> Self {
        self.range = Some((low, high));
        self
    }

    /// Names in place of numbers: the point with `x` = 0 stands at the first.
    #[must_use]
    pub fn categories<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Self {
        self.categories = names.into_iter().map(Into::into).collect();
        self
    }
}

impl Chart {
    /// A chart without points yet.
    pub fn new(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            x: Axis::new(""),
            y: Axis::new(""),
            series: Vec::new(),
            marks: Vec::new(),
        }
    }

    /// The horizontal axis.
    #[must_use]
    pub fn x(mut self, axis: Axis) -> Self {
        self.x = axis;
        self
    }

    /// The vertical axis.
    #[must_use]
    pub fn y(mut self, axis: Axis) -> Self {
        self.y = axis;
        self
    }

    /// Points joined by straight lines. A series without a name is not in the legend
    /// and has the colour of the one before; so hundreds of curves of one kind go
    /// together.
    #[must_use]
    pub fn line<P: Into<Point>>(
        self,
        name: impl Into<String>,
        points: impl IntoIterator<Item = P>,
    ) -> Self {
        self.with(name, Kind::Line, points)
    }

    /// A value that holds until the next point.
    #[must_use]
    pub fn step<P: Into<Point>>(
        self,
        name: impl Into<String>,
        points: impl IntoIterator<Item = P>,
    ) -> Self {
        self.with(name, Kind::Step, points)
    }

    /// Single points.
    #[must_use]
    pub fn points<P: Into<Point>>(
        self,
        name: impl Into<String>,
        points: impl IntoIterator<Item = P>,
    ) -> Self {
        self.with(name, Kind::Points, points)
    }

    /// The share of samples at or below each value, from 0 to 1.
    #[must_use]
    pub fn cdf(self, name: impl Into<String>, samples: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = samples.into_iter().filter(|x| x.is_finite()).collect();
        sorted.sort_unstable_by(f64::total_cmp);
        let all = sorted.len();
        // A thousand steps are finer than a picture's pixels.
        let every = all.div_ceil(1000).max(1);
        let first = sorted.first().map(|x| (*x, 0.0));
        let steps = sorted
            .iter()
            .enumerate()
            .filter(|(i, _)| i % every == 0 || i + 1 == all)
            .map(|(i, x)| (*x, (i + 1) as f64 / all as f64));
        self.step(name, first.into_iter().chain(steps).collect::<Vec<_>>())
    }

    /// Bars beside those of the other bar series, one for each category of the x axis.
    #[must_use]
    pub fn bars(self, name: impl Into<String>, values: impl IntoIterator<Item = f64>) -> Self {
        let points = values.into_iter().enumerate();
        self.with(name, Kind::Bars, points.map(|(i, y)| (i as f64, y)))
    }

    /// A dashed horizontal line with a word: a goal, a bound, the model.
    #[must_use]
    pub fn mark_y(mut self, name: impl Into<String>, y: f64) -> Self {
        self.marks.push((name.into(), y));
        self
    }

    fn with<P: Into<Point>>(
        mut self,
        name: impl Into<String>,
        kind: Kind,
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

    /// Its title.
    pub fn title(&self) -> &str {
        &self.title
    }
}
