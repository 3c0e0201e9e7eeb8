//! The habits of a [`TestRegistry`](super::TestRegistry): what registries do that keep to the specification, or nearly.
//!
//! Plain values. Each habit is one that a registry or a proxy in front of one is known for; docs/registries.md has the table.

/// What a registry wants to see before it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AuthMode {
    /// Nothing.
    #[default]
    Open,
    /// User and password with every request.
    Basic,
    /// A token, which the token server gives to the user only.
    Bearer,
    /// A token, which the token server gives to anybody for pulling.
    BearerForAll,
    /// The same, but a token that is not in force any more gets a Basic challenge.
    BearerThenBasic,
    /// Like `Bearer`, but the challenge names `pull` alone, and a token for less than is wanted gets status 403.
    BearerForPull,
}

/// How requests for a part of a blob are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ranges {
    /// With that part.
    #[default]
    Honoured,
    /// With the whole blob.
    Ignored,
    /// The first one for each blob with the whole blob, the others with the part.
    IgnoredFirst,
}

/// How the referrers API answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Referrers {
    /// With a list, as specified.
    #[default]
    Api,
    /// With this status: there is no such API.
    Status(u16),
    /// With a page for people.
    Html,
    /// With `false`.
    False,
    /// With a list that is `null` when it is empty.
    NullList,
    /// With a list of type `application/json`.
    Json,
    /// With descriptors whose sizes are wrong.
    WrongSize,
    /// With descriptors of other tools among them: other digest algorithms, nulls, no digest at all.
    Odd,
    /// With one descriptor a page, the address of the next page without its angle brackets.
    BareLink,
    /// With one descriptor a page, the next page by its full address.
    AbsoluteLink,
    /// With one descriptor a page, the next page on a host that only the registry itself knows.
    OtherLink,
}

impl Referrers {
    /// Whether there is a list to ask for.
    pub fn has_list(self) -> bool {
        !matches!(self, Self::Status(_) | Self::Html | Self::False)
    }

    /// One of each kind.
    pub const ALL: [Self; 16] = [
        Self::Api,
        Self::Status(400),
        Self::Status(403),
        Self::Status(404),
        Self::Status(405),
        Self::Status(406),
        Self::Status(501),
        Self::Html,
        Self::False,
        Self::NullList,
        Self::Json,
        Self::WrongSize,
        Self::Odd,
        Self::BareLink,
        Self::AbsoluteLink,
        Self::OtherLink,
    ];
}

/// Habits of the registry.
#[derive(Debug, Clone)]
pub struct Habits {
    /// Authentication.
    pub auth: AuthMode,
    /// Parts of blobs.
    pub ranges: Ranges,
    /// The referrers API. A registry that has a list answers OCI-Subject.
    pub referrers: Referrers,
    /// Referrers on one page; 0 means all.
    pub referrers_page: usize,
    /// The status with which a tag that names another manifest already is refused, if tags cannot be changed.
    pub immutable_tags: Option<u16>,
    /// Manifests that name these types (of an artifact or a configuration) are refused.
    pub refused_types: &'static [&'static str],
    /// Manifests can be deleted.
    pub deletes: bool,
    /// Blobs are redirected to the download server.
    pub redirect_blobs: bool,
    /// Largest body of one upload request; larger ones get status 413.
    pub max_upload: usize,
    /// Connections end with a reset instead of a regular close.
    pub reset_connections: bool,
    /// Seconds that tokens live, as told to the client.
    pub token_lifetime: u64,
}

impl Default for Habits {
    fn default() -> Self {
        Self {
            auth: AuthMode::Open,
            ranges: Ranges::Honoured,
            referrers: Referrers::Api,
            referrers_page: 0,
            immutable_tags: None,
            refused_types: &[],
            deletes: true,
            redirect_blobs: false,
            max_upload: usize::MAX,
            reset_connections: false,
            token_lifetime: 300,
        }
    }
}
