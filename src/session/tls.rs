//! What is known of the TLS that protects a session.

/// The outcome of a handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFacts {
    /// As OpenSSL writes it, e.g. `TLSv1.3`.
    pub version: &'static str,
    /// The cipher suite by its name in the registry of IANA.
    pub cipher: String,
    /// The group of the key exchange by its name in the registry of IANA.
    pub group: Option<&'static str>,
    /// The name that the client asked for (RFC 6066 §3).
    pub sni: Option<String>,
    /// Our name by the certificate that was shown.
    pub server_name: String,
    /// The first records that the client sent, which hold its ClientHello; at most 16 KiB.
    pub hello: Vec<u8>,
}

/// Why a handshake came to nothing, and what the client had said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFailure {
    /// In words.
    pub error: String,
    /// The alert that we sent or received, `none` where there was none.
    pub alert: String,
    /// The name that the client asked for, if it came so far.
    pub sni: Option<String>,
    /// As in [`TlsFacts`].
    pub hello: Vec<u8>,
}
