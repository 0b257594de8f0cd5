//! What can be wrong with a command: a fault refuses it, an oddity is only noted.

use super::status::Status;

/// A refusal for reasons of syntax: reply code, enhanced status code and text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Reply code.
    pub code: u16,
    /// Enhanced status code.
    pub status: Status,
    /// What to say.
    pub text: &'static str,
}

#[allow(missing_docs)]
impl Fault {
    pub const LINE_TOO_LONG: Fault = Fault::new(500, Status::SYNTAX, "Line too long");
    pub const UNKNOWN_COMMAND: Fault = Fault::new(500, Status::SYNTAX, "Command unrecognized");
    pub const BAD_OCTET: Fault = Fault::new(501, Status::SYNTAX, "Bad character in command");
    pub const NO_CHUNKING: Fault = Fault::new(502, Status::INVALID_COMMAND, "BDAT not offered");
    pub const NON_ASCII_ADDRESS: Fault = Fault::new(553, Status::NON_ASCII_ADDRESS, "Non-ASCII address needs SMTPUTF8");
    pub const BAD_SENDER: Fault = Fault::new(501, Status::BAD_SENDER_SYNTAX, "Bad sender address");
    pub const BAD_RECIPIENT: Fault = Fault::new(501, Status::BAD_RECIPIENT_SYNTAX, "Bad recipient address");
    pub const TOO_BIG: Fault = Fault::new(552, Status::TOO_BIG, "Message too big");
    pub const BAD_PARAMETER: Fault = Fault::arguments("Bad parameter");
    pub const UNKNOWN_PARAMETER: Fault = Fault::new(555, Status::INVALID_ARGUMENTS, "Parameter not recognized");

    /// A fault of these three.
    pub const fn new(code: u16, status: Status, text: &'static str) -> Fault {
        Fault { code, status, text }
    }

    pub(super) const fn arguments(text: &'static str) -> Fault {
        Fault::new(501, Status::INVALID_ARGUMENTS, text)
    }
}

/// Something that a careful client does not do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Oddity {
    /// `mail`.
    LowerCaseVerb,
    /// `Mail`.
    MixedCaseVerb,
    /// White space before the verb.
    LeadingSpace,
    /// White space at the end of the line.
    TrailingSpace,
    /// `FROM: <a@b>`.
    SpaceAfterColon,
    /// `FROM :<a@b>`.
    SpaceBeforeColon,
    /// More than one space, or a tab, between words.
    ExtraSpaces,
    /// A path without angle brackets.
    MissingBrackets,
    /// A path with a source route.
    SourceRoute,
    /// A local part of more than 64 octets.
    LongLocalPart,
    /// The line ended in LF alone.
    BareLf,
    /// CR or LF inside the line.
    BareCr,
    /// NUL inside the line.
    Nul,
    /// Octets above 127 in an address without SMTPUTF8, or in a command that never has any.
    EightBitWithoutSmtputf8,
    /// A parameter that was not offered, in capitals.
    UnknownParameter(String),
    /// HELO or EHLO with what is neither a domain nor a literal.
    MalformedHello,
    /// The line exceeded the limit.
    LineTooLong,
}

impl Oddity {
    /// A short word for the log.
    pub fn name(&self) -> &'static str {
        match self {
            Oddity::LowerCaseVerb => "lower_case_verb",
            Oddity::MixedCaseVerb => "mixed_case_verb",
            Oddity::LeadingSpace => "leading_space",
            Oddity::TrailingSpace => "trailing_space",
            Oddity::SpaceAfterColon => "space_after_colon",
            Oddity::SpaceBeforeColon => "space_before_colon",
            Oddity::ExtraSpaces => "extra_spaces",
            Oddity::MissingBrackets => "missing_brackets",
            Oddity::SourceRoute => "source_route",
            Oddity::LongLocalPart => "long_local_part",
            Oddity::BareLf => "command_bare_lf",
            Oddity::BareCr => "command_bare_cr",
            Oddity::Nul => "command_nul",
            Oddity::EightBitWithoutSmtputf8 => "eight_bit_command",
            Oddity::UnknownParameter(_) => "unknown_parameter",
            Oddity::MalformedHello => "malformed_hello",
            Oddity::LineTooLong => "line_too_long",
        }
    }

    /// Notes it once.
    pub(super) fn add(oddities: &mut Vec<Oddity>, oddity: Oddity) {
        if !oddities.contains(&oddity) {
            oddities.push(oddity);
        }
    }
}
