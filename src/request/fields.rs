//! Which of the names that decide something here a head has.
//!
//! Pure. One look at the few names that are there costs less than a dozen searches for those that
//! are not.

use http::HeaderMap;

/// Some of the names that decide something here.
#[derive(Clone, Copy)]
pub(super) struct Fields(u16);

impl Fields {
    /// Those that are between two neighbours only: the places of `headers::HOP_BY_HOP`.
    pub(super) const HOP_BY_HOP: Self = Self(0xff);
    pub(super) const CONNECTION: Self = Self(1);
    pub(super) const TE: Self = Self(1 << 6);
    pub(super) const EXPECT: Self = Self(1 << 8);
    pub(super) const ORIGIN: Self = Self(1 << 9);
    /// Those with an address of the upstream's own.
    pub(super) const ADDRESS: Self = Self(1 << 10);
    pub(super) const TRANSFER_ENCODING: Self = Self(1 << 11);
    pub(super) const VIA: Self = Self(1 << 12);
    pub(super) const REQUEST_ID: Self = Self(1 << 13);
    pub(super) const TOKEN: Self = Self(1 << 14);
    const NONE: Self = Self(0);

    /// Those of a head.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let there = (headers.keys()).fold(0, |there, name| there | Self::by(name.as_str()).0);
        Self(there)
    }

    /// Whether one of `these` is among them.
    pub(super) const fn has(self, these: Self) -> bool {
        self.0 & these.0 != 0
    }

    /// Whether the hop-by-hop field with this place is among them.
    pub(super) const fn has_hop(self, place: usize) -> bool {
        self.0 & (1 << place) != 0
    }

    fn by(name: &str) -> Self {
        match name {
            "connection" => Self::CONNECTION,
            "keep-alive" => Self(1 << 1),
            "proxy-connection" => Self(1 << 2),
            "proxy-authenticate" => Self(1 << 3),
            "proxy-authentication-info" => Self(1 << 4),
            "proxy-authorization" => Self(1 << 5),
            "te" => Self::TE,
            "upgrade" => Self(1 << 7),
            "expect" => Self::EXPECT,
            "origin" => Self::ORIGIN,
            "location" | "content-location" | "set-cookie" => Self::ADDRESS,
            "transfer-encoding" => Self::TRANSFER_ENCODING,
            "via" => Self::VIA,
            "x-request-id" => Self::REQUEST_ID,
            "x-tailhop-token" => Self::TOKEN,
            _ => Self::NONE,
        }
    }
}
