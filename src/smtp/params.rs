//! Parameters of MAIL and RCPT (RFC 5321 §4.1.2; RFC 1870, 6152, 6531). Octets to values.

use super::fault::{Fault, Oddity};
use super::status::Status;

/// What the reply to EHLO offered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Advertised {
    /// SIZE in octets; 0 means no limit.
    pub size_limit: u64,
    /// SMTPUTF8.
    pub smtputf8: bool,
    /// 8BITMIME.
    pub eightbit: bool,
    /// CHUNKING.
    pub chunking: bool,
    /// Whether parameters that were not offered are ignored instead of refused.
    pub tolerant: bool,
}

/// One parameter as sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Its keyword, in capitals.
    pub keyword: String,
    /// What follows the equals sign.
    pub value: Option<String>,
}

/// What the client declared of the body (RFC 6152).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// `BODY=7BIT`.
    SevenBit,
    /// `BODY=8BITMIME`.
    EightBitMime,
}

/// The parameters of MAIL that we know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MailParameters {
    /// Declared size in octets (RFC 1870).
    pub size: Option<u64>,
    /// Declared kind of body.
    pub body: Option<Body>,
    /// Whether the message may have addresses and header fields in UTF-8 (RFC 6531).
    pub smtputf8: bool,
}

/// Splits what follows the path. Fault: not of the form keyword or keyword=value.
pub(super) fn split(text: &str, oddities: &mut Vec<Oddity>) -> Result<Vec<Parameter>, Fault> {
    let mut parameters = Vec::new();
    for word in text.split([' ', '\t']) {
        if word.is_empty() {
            if !text.is_empty() {
                Oddity::add(oddities, Oddity::ExtraSpaces);
            }
            continue;
        }
        let (keyword, value) = match word.split_once('=') {
            Some((keyword, value)) => (keyword, Some(value)),
            None => (word, None),
        };
        if !is_keyword(keyword) || !value.is_none_or(is_value) {
            return Err(Fault::BAD_PARAMETER);
        }
        parameters.push(Parameter {
            keyword: keyword.to_ascii_uppercase(),
            value: value.map(str::to_owned),
        });
    }
    Ok(parameters)
}

fn is_keyword(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn is_value(text: &str) -> bool {
    let allowed = |b: u8| matches!(b, 33..=60 | 62..=126) || b >= 0x80;
    !text.is_empty() && text.bytes().all(allowed)
}

/// Understands the parameters of MAIL. All unknown ones are noted before the fault is given.
pub(super) fn mail(
    parameters: &[Parameter],
    advertised: &Advertised,
    oddities: &mut Vec<Oddity>,
) -> Result<MailParameters, Fault> {
    let mut known = MailParameters::default();
    let mut fault = None;
    for parameter in parameters {
        let value = parameter.value.as_deref();
        let result = match parameter.keyword.as_str() {
            "SIZE" => set_once(&mut known.size, size(value, advertised.size_limit)),
            "BODY" if advertised.eightbit => set_once(&mut known.body, body(value)),
            "SMTPUTF8" if advertised.smtputf8 => {
                let repeated = std::mem::replace(&mut known.smtputf8, true);
                if repeated || value.is_some() {
                    Err(Fault::BAD_PARAMETER)
                } else {
                    Ok(())
                }
            }
            unknown => {
                oddities.push(Oddity::UnknownParameter(unknown.to_owned()));
                unknown_parameter(advertised)
            }
        };
        if let Err(found) = result {
            fault.get_or_insert(found);
        }
    }
    fault.map_or(Ok(known), Err)
}

/// RCPT has no parameter that we offer.
pub(super) fn rcpt(parameters: &[Parameter], advertised: &Advertised, oddities: &mut Vec<Oddity>) -> Result<(), Fault> {
    for parameter in parameters {
        oddities.push(Oddity::UnknownParameter(parameter.keyword.clone()));
    }
    if parameters.is_empty() {
        Ok(())
    } else {
        unknown_parameter(advertised)
    }
}

fn unknown_parameter(advertised: &Advertised) -> Result<(), Fault> {
    if advertised.tolerant {
        Ok(())
    } else {
        Err(Fault::UNKNOWN_PARAMETER)
    }
}

fn set_once<T>(slot: &mut Option<T>, value: Result<T, Fault>) -> Result<(), Fault> {
    if slot.replace(value?).is_some() {
        Err(Fault::BAD_PARAMETER)
    } else {
        Ok(())
    }
}

fn size(value: Option<&str>, limit: u64) -> Result<u64, Fault> {
    let digits = value.unwrap_or_default();
    if !(1..=20).contains(&digits.len()) || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Fault::new(
            501,
            Status::INVALID_ARGUMENTS,
            "SIZE needs a number of octets",
        ));
    }
    let size = digits.parse().unwrap_or(u64::MAX);
    if limit != 0 && size > limit {
        Err(Fault::TOO_BIG)
    } else {
        Ok(size)
    }
}

/// 501 for BINARYMIME as for any other value: RFC 3030 §3 forbids clients to say it where it is not offered, so that to us
/// it is a bad argument and no parameter that we know and lack, which RFC 5321 §4.2.3 has 504 for. Of those there is none:
/// what a parameter that we take may say in its own RFC, we take.
fn body(value: Option<&str>) -> Result<Body, Fault> {
    let value = value.unwrap_or_default();
    if value.eq_ignore_ascii_case("7BIT") {
        Ok(Body::SevenBit)
    } else if value.eq_ignore_ascii_case("8BITMIME") {
        Ok(Body::EightBitMime)
    } else {
        Err(Fault::new(
            501,
            Status::INVALID_ARGUMENTS,
            "BODY is 7BIT or 8BITMIME here",
        ))
    }
}
