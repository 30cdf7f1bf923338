//! Numbers and times as people read them. JSON carries the exact ones.

/// `9999`, then `12.3K`, `123K`, `1.2M`: never more than five characters below a quintillion.
pub(crate) fn count(n: u64) -> String {
    if n < 10_000 {
        return n.to_string();
    }
    scaled(n, 1000, &["", "K", "M", "G", "T", "P", "E"])
}

/// `1234567` as `1,234,567`: for results, where every figure counts.
pub(crate) fn exact(n: u64) -> String {
    let digits = n.to_string();
    let mut shown = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

/// A rate, in as many figures as [`count`] shows: `0.5`, `21.3K`.
pub(crate) fn rate(per_second: f64) -> String {
    if per_second > 0.0 && per_second < 9.95 {
        format!("{per_second:.1}")
    } else {
        count(whole(per_second))
    }
}

/// The nearest whole number; negative ones and those that are none become 0.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float becomes the nearest integer there is"
)]
pub(crate) fn whole(x: f64) -> u64 {
    x.round() as u64
}

/// Ahead of a unit such as `bit/s`, in powers of 1000: `1.25 G`, `850 `.
pub(crate) fn si(x: f64) -> String {
    let units = [(1e9, "G"), (1e6, "M"), (1e3, "k")];
    match units.into_iter().find(|(unit, _)| x >= *unit) {
        Some((unit, name)) => format!("{:.2} {name}", x / unit),
        None => format!("{x:.0} "),
    }
}

/// A measured time in three figures: `850 ns`, `41.2 µs`, `1.23 ms`, `2.05 s`.
pub(crate) fn precise(nanos: f64) -> String {
    let (value, unit) = match nanos {
        n if n < 999.5 => return format!("{n:.0} ns"),
        n if n < 999.5e3 => (n / 1e3, "µs"),
        n if n < 999.5e6 => (n / 1e6, "ms"),
        n => (n / 1e9, "s"),
    };
    let places = match value {
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.places$} {unit}")
}

/// `512 B`, `3.4 GiB`, in powers of 1024.
pub(crate) fn bytes(n: u64) -> String {
    scaled(n, 1024, &[" B", " KiB", " MiB", " GiB", " TiB", " PiB", " EiB"])
}

/// Rounds down, so that a number never looks larger than it is.
fn scaled(n: u64, base: u64, units: &[&str]) -> String {
    let mut unit = 1;
    let mut name = "";
    for (step, next) in units.iter().enumerate() {
        if step > 0 {
            unit *= base;
        }
        name = next;
        if n / unit < base {
            break;
        }
    }
    let whole = n / unit;
    if unit == 1 || whole >= 100 {
        return format!("{whole}{name}");
    }
    let tenths = (n % unit) / (unit / 10);
    format!("{whole}.{}{name}", tenths.min(9))
}

/// Seconds as `45s`, `2m13s`, `3h05m`, `3d4h`, `123d`.
pub(crate) fn span(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m{:02}s", seconds % 60),
        3600..86400 => format!("{hours}h{:02}m", minutes % 60),
        86400..8_640_000 => format!("{days}d{}h", hours % 24),
        _ => format!("{days}d"),
    }
}

/// How long a check took: `<0.1 ms`, `0.4 ms`, `12 ms`, `1.2 s`.
pub(super) fn latency(ms: f64) -> String {
    if ms < 0.1 {
        "<0.1 ms".to_owned()
    } else if ms < 9.95 {
        format!("{ms:.1} ms")
    } else if ms < 999.5 {
        format!("{ms:.0} ms")
    } else {
        format!("{:.1} s", ms / 1000.0)
    }
}

/// `part` of `whole` in percent: `50%`, `<1%`, and `100%` or `0%` only when it is exactly that.
pub(super) fn percent(part: u64, whole: u64) -> String {
    let (part, whole) = (u128::from(part), u128::from(whole));
    match (part * 100 + whole / 2).checked_div(whole) {
        None => "-".to_owned(),
        Some(0) if part > 0 => "<1%".to_owned(),
        Some(100) if part < whole => ">99%".to_owned(),
        Some(percent) => format!("{percent}%"),
    }
}

/// `1 backend`, `2 backends`.
pub(crate) fn plural(n: usize, what: &str) -> String {
    let s = if n == 1 { "" } else { "s" };
    format!("{n} {what}{s}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_keep_three_figures() {
        let shown = [
            0,
            999,
            9999,
            10_000,
            12_345,
            99_999,
            123_456,
            999_999,
            1_234_567,
            u64::MAX,
        ]
        .map(count);
        assert_eq!(
            shown,
            [
                "0", "999", "9999", "10.0K", "12.3K", "99.9K", "123K", "999K", "1.2M", "18.4E"
            ]
        );
    }

    #[test]
    fn exact_counts_have_groups_of_three() {
        let shown = [0, 999, 1000, 1_234_567].map(exact);
        assert_eq!(shown, ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn rates_and_measured_times_keep_three_figures() {
        let shown = [0.0, 0.44, 9.94, 9.96, 21_345.6].map(rate);
        assert_eq!(shown, ["0", "0.4", "9.9", "10", "21.3K"]);
        let shown = [850.0, 1_250_000_000.0].map(si);
        assert_eq!(shown, ["850 ", "1.25 G"]);
        let shown = [850.0, 999.6, 41_234.0, 999_600.0, 1_234_567.0, 2.05e9, 123e9].map(precise);
        assert_eq!(
            shown,
            ["850 ns", "1.00 µs", "41.2 µs", "1.00 ms", "1.23 ms", "2.05 s", "123 s"]
        );
    }

    #[test]
    fn bytes_are_binary() {
        let shown = [0, 1023, 1024, 1536, 1_048_575, 3_650_722_201, u64::MAX].map(bytes);
        assert_eq!(
            shown,
            ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "1023 KiB", "3.4 GiB", "15.9 EiB"]
        );
    }

    #[test]
    fn spans_have_two_units() {
        let shown = [0, 59, 60, 133, 3599, 3600, 11_100, 86_399, 86_400, 273_600, 8_640_000].map(span);
        assert_eq!(
            shown,
            [
                "0s", "59s", "1m00s", "2m13s", "59m59s", "1h00m", "3h05m", "23h59m", "1d0h", "3d4h", "100d"
            ]
        );
    }

    #[test]
    fn latencies_change_their_unit() {
        let shown = [0.0, 0.42, 9.94, 9.96, 12.3, 999.4, 999.6, 1234.0].map(latency);
        assert_eq!(
            shown,
            [
                "<0.1 ms", "0.4 ms", "9.9 ms", "10 ms", "12 ms", "999 ms", "1.0 s", "1.2 s"
            ]
        );
    }

    #[test]
    fn extreme_shares_are_not_rounded_away() {
        let shown = [(0, 0), (0, 5), (1, 256), (1, 3), (999, 1000), (5, 5)].map(|(a, b)| percent(a, b));
        assert_eq!(shown, ["-", "0%", "<1%", "33%", ">99%", "100%"]);
    }
}
