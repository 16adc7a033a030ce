//! Charts of every kind, drawn.

use std::collections::BTreeSet;

use super::canvas::{Label, Shape};
use super::*;
use crate::report::chart::{Bar, Bars, Heat, Lines, Mark, Panel, Panels, Scale};

const LONG: &str = "wiqa_what_is_the_final_step_of_the_following_process_again_and_again";

fn chart(kind: Kind) -> Chart {
    Chart {
        name: "c".into(),
        title: "A <title> & more".into(),
        caption: "What it \"says\".".into(),
        kind,
    }
}

fn bars(count: usize) -> Kind {
    let bar = |i: usize| Bar {
        label: format!("{LONG} {i}"),
        value: i as f64 * 7.0,
        error: 12.0,
        group: i % 2,
    };
    let mark = |value: f64| Mark {
        value,
        label: format!("chance {value}"),
    };
    Kind::Bars(Bars {
        x: "ROUGE-L".into(),
        bars: (0..count).map(bar).collect(),
        groups: vec!["private".into(), LONG.into()],
        marks: vec![mark(25.0), mark(25.5), mark(0.0)],
    })
}

fn heat(count: usize) -> Kind {
    let names: Vec<String> = (0..count).map(|i| format!("{LONG}{i}")).collect();
    let value = |i: usize, j: usize| {
        if i == j {
            f64::NAN
        } else {
            i as f64 - j as f64
        }
    };
    let row = |i: usize| (0..count).map(|j| value(i, j)).collect();
    Kind::Heat(Heat {
        rows: names.clone(),
        columns: names,
        values: (0..count).map(row).collect(),
        digits: 2,
        frames: vec![(0, count / 2)],
        apart: Some(1),
        scale: Scale {
            least: -1.0,
            most: 1.0,
            root: true,
        },
    })
}

fn lines(count: usize) -> Kind {
    let line = |i: usize| {
        let points = (0..4).map(|x| [f64::from(x), 1.0 + i as f64 * 1e-3]);
        (format!("{LONG} {i}"), points.collect())
    };
    Kind::Lines(Lines {
        x: "layer".into(),
        y: "share of tokens".into(),
        lines: (0..count).map(line).collect(),
        marks: vec![Mark {
            value: 0.2,
            label: "chance 2 / 10".into(),
        }],
        whole: true,
    })
}

fn panels(count: usize) -> Kind {
    let points = vec![[1.0, 3.0], [2.0, f64::NAN], [3.0, 90.0], [4.0, 1.0]];
    let panel = |i: usize| Panel {
        name: format!("{LONG}{i}"),
        smooth: points.clone(),
        points: points.clone(),
        group: i % 2,
    };
    Kind::Panels(Panels {
        x: "step".into(),
        panels: (0..count).map(panel).collect(),
    })
}

fn all() -> Vec<Chart> {
    let sizes = [0, 1, 2, 10, 16, 40];
    let kinds = [bars, heat, lines, panels];
    let every = sizes.iter().flat_map(|&n| kinds.map(|kind| chart(kind(n))));
    every.collect()
}

/// The elements of `svg`; every tag must be closed and every `&` begin an entity.
fn parsed(svg: &str) -> usize {
    let mut open: Vec<&str> = Vec::new();
    let mut elements = 0;
    for piece in svg.split('<').skip(1) {
        let (tag, text) = piece.split_once('>').unwrap();
        assert!(!text.contains('>'), "{piece}");
        let name = tag
            .trim_start_matches('/')
            .split([' ', '/'])
            .next()
            .unwrap();
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        for entity in piece.split('&').skip(1) {
            let entity = entity.split(';').next().unwrap();
            assert!(["amp", "lt", "gt", "quot"].contains(&entity), "{piece}");
        }
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name));
        } else if !tag.ends_with('/') {
            open.push(name);
        }
        elements += 1;
    }
    assert!(open.is_empty(), "{open:?}");
    elements
}

#[test]
fn every_kind_is_drawn_as_svg_and_png() {
    for chart in all() {
        let svg = chart.svg().unwrap();
        assert!(svg.starts_with("<svg xmlns="), "{svg}");
        assert!(svg.contains("<title>A &lt;title&gt; &amp; more</title>"));
        assert!(svg.contains("<desc>What it &quot;says&quot;.</desc>"));
        assert!(parsed(&svg) > 4);
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }
    for kind in [bars(3), heat(3), lines(3), panels(3)] {
        assert!(chart(kind).png().unwrap().starts_with(b"\x89PNG"));
    }
}

#[test]
fn everything_stands_within_the_picture_and_no_name_is_cut() {
    for chart in all() {
        let canvas = chart.canvas().unwrap();
        let (width, height) = canvas.size();
        for shape in &canvas.shapes {
            let [left, top, right, bottom] = canvas.bounds(shape);
            let inside = left >= 0.0 && top >= 0.0 && right <= width && bottom <= height;
            assert!(inside, "{shape:?} in {width} x {height}");
        }
    }
    let names = |kind: Kind| -> String {
        let canvas = chart(kind).canvas().unwrap();
        let texts = canvas.shapes.iter().filter_map(|shape| match shape {
            Shape::Label(Label { text, .. }) => Some(text.as_str()),
            _ => None,
        });
        texts.collect()
    };
    for kind in [bars(4), heat(4), lines(4), panels(4)] {
        let text = names(kind);
        assert!(text.matches(LONG).count() >= 4, "{text}");
    }
}

#[test]
fn no_colour_serves_two_lines_and_no_two_names_overlap() {
    for count in [2, 9, 16, 30] {
        let canvas = chart(lines(count)).canvas().unwrap();
        let wide = canvas.shapes.iter().filter_map(|shape| match shape {
            Shape::Line(points, stroke) if points.len() == 4 => Some(stroke.paint.rgb()),
            _ => None,
        });
        let colours: BTreeSet<_> = wide.collect();
        assert_eq!(colours.len(), count);
        let mut heights: Vec<f64> = Vec::new();
        for shape in &canvas.shapes {
            if let Shape::Label(label) = shape
                && (label.text.starts_with(LONG) || label.text.starts_with("chance"))
            {
                heights.push(label.at[1]);
            }
        }
        heights.sort_by(f64::total_cmp);
        assert_eq!(heights.len(), count + 1);
        assert!(heights.windows(2).all(|pair| pair[1] - pair[0] > 15.0));
    }
}
