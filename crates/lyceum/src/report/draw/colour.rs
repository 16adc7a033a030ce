//! The colours of pictures.

use super::canvas::Paint;

/// Red, green, blue.
pub(super) type Rgb = [u8; 3];

/// Okabe and Ito's palette, told apart by colour-blind readers too, then eight more.
const PALETTE: [Rgb; 16] = [
    [0, 114, 178],
    [230, 159, 0],
    [0, 158, 115],
    [204, 121, 167],
    [86, 180, 233],
    [213, 94, 0],
    [125, 125, 125],
    [170, 150, 20],
    [106, 61, 154],
    [140, 74, 31],
    [0, 190, 180],
    [165, 15, 69],
    [127, 184, 0],
    [60, 70, 200],
    [250, 128, 128],
    [40, 100, 60],
];

impl Paint {
    /// Its colour on white.
    pub(super) fn rgb(self) -> Rgb {
        match self {
            Paint::Paper => [255, 255, 255],
            Paint::Ink => [33, 37, 41],
            Paint::Muted => [89, 99, 110],
            Paint::Faint => [222, 226, 230],
            Paint::Series(i) => series(i),
            Paint::Shade(share) if share < 0.0 => blend(-share, [253, 246, 238], [166, 70, 0]),
            Paint::Shade(share) => blend(share, [240, 245, 250], [0, 84, 148]),
            Paint::OnShade(share) if share.abs() > 0.48 => [254, 254, 254],
            Paint::OnShade(_) => [33, 37, 42],
        }
    }

    /// The class of an SVG element of this colour, for a page that is shown on black.
    pub(super) fn class(self) -> Option<&'static str> {
        match self {
            Paint::Paper => Some("paper"),
            Paint::Ink => Some("ink"),
            Paint::Muted => Some("muted"),
            Paint::Faint => Some("faint"),
            Paint::Series(_) | Paint::Shade(_) | Paint::OnShade(_) => None,
        }
    }
}

fn blend(share: f64, from: Rgb, to: Rgb) -> Rgb {
    let share = share.clamp(0.0, 1.0);
    let mix = |i: usize| {
        let (from, to) = (f64::from(from[i]), f64::from(to[i]));
        (from + (to - from) * share).round() as u8
    };
    [mix(0), mix(1), mix(2)]
}

/// The colour of the series `i`: no two of a picture are equal.
fn series(i: usize) -> Rgb {
    let Some(beyond) = i.checked_sub(PALETTE.len()) else {
        return PALETTE[i];
    };
    // Hues a golden angle apart never meet; lightness goes through three steps.
    let hue = (beyond as f64 * 137.507_764).rem_euclid(360.0) / 60.0;
    let light = [0.42, 0.62, 0.3][beyond % 3];
    let chroma = 0.7 * (1.0 - (2.0 * light - 1.0_f64).abs());
    let second = chroma * (1.0 - (hue.rem_euclid(2.0) - 1.0).abs());
    let (r, g, b) = match hue as u8 {
        0 => (chroma, second, 0.0),
        1 => (second, chroma, 0.0),
        2 => (0.0, chroma, second),
        3 => (0.0, second, chroma),
        4 => (second, 0.0, chroma),
        _ => (chroma, 0.0, second),
    };
    [r, g, b].map(|part| ((part + light - chroma / 2.0) * 255.0).round() as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_series_share_a_colour() {
        let all: Vec<Rgb> = (0..64).map(|i| Paint::Series(i).rgb()).collect();
        let apart = |a: Rgb, b: Rgb| -> u32 {
            a.iter().zip(b).map(|(x, y)| u32::from(x.abs_diff(y))).sum()
        };
        for (i, &a) in all.iter().enumerate() {
            for (j, &b) in all.iter().enumerate().take(i) {
                assert_ne!(a, b, "{i} and {j}");
                // The first sixteen are told apart at a glance, from each other and from paper.
                assert!(i >= 16 || apart(a, b) >= 75, "{i} and {j}: {}", apart(a, b));
            }
            assert!(i >= 16 || apart(a, Paint::Paper.rgb()) >= 150, "{i}");
        }
    }
}
