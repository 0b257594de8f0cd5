//! Durations as the files have them: `90`, `30s`, `5m`, `1h30m`.

use std::time::Duration;

/// Seconds, or numbers with the units s, m, h, d.
pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    let mut total: u64 = 0;
    let mut rest = text.trim();
    if let Ok(seconds) = rest.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest.get(..digits)?.parse().ok()?;
        let unit = rest.get(digits..)?.chars().next()?;
        let factor = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86400,
            _ => return None,
        };
        total = total.checked_add(number.checked_mul(factor)?)?;
        rest = rest.get(digits + 1..)?.trim_start();
    }
    Some(Duration::from_secs(total))
}

/// The shortest form of one unit.
pub(super) fn format_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => "0s".to_owned(),
        _ if seconds.is_multiple_of(86400) => format!("{}d", seconds / 86400),
        _ if seconds.is_multiple_of(3600) => format!("{}h", seconds / 3600),
        _ if seconds.is_multiple_of(60) => format!("{}m", seconds / 60),
        _ => format!("{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, seconds) in [
            ("5m", Some(300)),
            ("30s", Some(30)),
            ("1h", Some(3600)),
            ("5d", Some(432_000)),
        ] {
            assert_eq!(
                parse_duration(text).map(|duration| duration.as_secs()),
                seconds,
                "{text}"
            );
        }
        assert_eq!(parse_duration("1h30m"), Some(Duration::from_secs(5400)));
        assert_eq!(parse_duration("90"), Some(Duration::from_secs(90)));
        for bad in [
            "",
            "m",
            "5",
            "5x",
            "-5m",
            "5 minutes",
            "99999999999999999999s",
            "18446744073709551615d",
            "5µ",
            "5m 3",
        ] {
            assert_eq!(parse_duration(bad).is_some(), bad == "5", "{bad}");
        }
        assert_eq!(format_duration(Duration::from_secs(540)), "9m");
    }
}
