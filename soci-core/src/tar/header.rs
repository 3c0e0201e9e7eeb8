//! One 512-byte tar header block: V7, USTAR/PAX, STAR and GNU.
//!
//! Owns no state. Invariant: a block whose checksum is right but whose number fields are not is an error, even
//! when a PAX record would replace the number, as in Go.

/// Size of a tar block in bytes.
pub(super) const BLOCK: usize = 512;

/// The fields of a header block before PAX and GNU extensions are applied.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// The magic is GNU's.
    pub gnu: bool,
    pub typeflag: u8,
    pub name: Vec<u8>,
    pub link_name: Vec<u8>,
    pub size: i64,
    pub mode: i64,
    pub uid: i64,
    pub gid: i64,
    pub mtime: i64,
    pub uname: Vec<u8>,
    pub gname: Vec<u8>,
    pub dev_major: i64,
    pub dev_minor: i64,
}

impl Header {
    pub(super) fn parse(block: &[u8; BLOCK]) -> Result<Self, &'static str> {
        check_sum(block)?;
        let mut header = Self {
            gnu: &block[257..265] == b"ustar  \0",
            typeflag: block[156],
            name: text(&block[..100]).to_vec(),
            link_name: text(&block[157..257]).to_vec(),
            mode: number(&block[100..108])?,
            uid: number(&block[108..116])?,
            gid: number(&block[116..124])?,
            size: number(&block[124..136])?,
            mtime: number(&block[136..148])?,
            uname: Vec::new(),
            gname: Vec::new(),
            dev_major: 0,
            dev_minor: 0,
        };
        if header.size < 0 {
            return Err("negative size");
        }
        let prefix = match &block[257..265] {
            // V7 has none of the fields below.
            magic if !magic.starts_with(b"ustar\0") && magic != b"ustar  \0" => return Ok(header),
            b"ustar  \0" => gnu_prefix(block),
            _ if &block[508..] == b"tar\0" => {
                // STAR keeps access and change time behind a shorter prefix; they are checked though not used.
                number(&block[476..488])?;
                number(&block[488..500])?;
                text(&block[345..476])
            }
            _ => text(&block[345..500]),
        };
        header.uname = text(&block[265..297]).to_vec();
        header.gname = text(&block[297..329]).to_vec();
        header.dev_major = number(&block[329..337])?;
        header.dev_minor = number(&block[337..345])?;
        if !prefix.is_empty() {
            header.name = [prefix, b"/", &header.name].concat();
        }
        Ok(header)
    }
}

/// GNU has no prefix; but Go before 1.8 wrote one over the access and change times, so when those two are no
/// numbers and the field is ASCII, it is taken as a prefix.
fn gnu_prefix(block: &[u8; BLOCK]) -> &[u8] {
    let times = [&block[345..357], &block[357..369]];
    let prefix = text(&block[345..500]);
    if times.iter().any(|field| field[0] != 0 && number(field).is_err()) && prefix.is_ascii() {
        prefix
    } else {
        &[]
    }
}

/// The checksum field must match the sum of all bytes, itself counted as spaces; old tools summed signed bytes.
fn check_sum(block: &[u8; BLOCK]) -> Result<(), &'static str> {
    let wanted = octal(&block[148..156])?;
    let (mut unsigned, mut signed) = (0_i64, 0_i64);
    for (index, &byte) in block.iter().enumerate() {
        let byte = if (148..156).contains(&index) { b' ' } else { byte };
        unsigned += i64::from(byte);
        signed += i64::from(byte.cast_signed());
    }
    if wanted == unsigned || wanted == signed { Ok(()) } else { Err("wrong header checksum") }
}

/// Bytes up to the first NUL.
pub(super) fn text(field: &[u8]) -> &[u8] {
    field.iter().position(|&byte| byte == 0).map_or(field, |end| &field[..end])
}

/// A number field: base-256 two's complement when the first bit is set, octal otherwise.
pub(super) fn number(field: &[u8]) -> Result<i64, &'static str> {
    if field[0] & 0x80 == 0 {
        return octal(field);
    }
    let inverse = if field[0] & 0x40 == 0 { 0 } else { 0xff };
    let mut value = 0_u64;
    for (index, &byte) in field.iter().enumerate() {
        let mut byte = byte ^ inverse;
        if index == 0 {
            byte &= 0x7f;
        }
        if value >> 56 > 0 {
            return Err("number field overflows");
        }
        value = value << 8 | u64::from(byte);
    }
    let value = i64::try_from(value).map_err(|_| "number field overflows")?;
    Ok(if inverse == 0 { value } else { !value })
}

/// Octal digits with spaces and NULs around them; an empty field is 0.
fn octal(field: &[u8]) -> Result<i64, &'static str> {
    let padding = |byte: &u8| matches!(byte, b' ' | 0);
    let start = field.iter().position(|byte| !padding(byte)).unwrap_or(field.len());
    let end = field.iter().rposition(|byte| !padding(byte)).map_or(start, |last| last + 1);
    let mut value = 0_i64;
    for &byte in text(&field[start..end]) {
        if !(b'0'..=b'7').contains(&byte) {
            return Err("number field is not octal");
        }
        value = value * 8 + i64::from(byte - b'0');
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octal_fields() {
        assert_eq!(octal(b"0000644\0"), Ok(0o644));
        assert_eq!(octal(b"  644 \0\0"), Ok(0o644));
        assert_eq!(octal(b"\0\0\0\0"), Ok(0));
        assert_eq!(octal(b"12\x0034\0"), Ok(0o12));
        assert!(octal(b"12 34\0").is_err());
        assert!(octal(b"1289").is_err());
        assert!(octal(b"+12").is_err());
        assert_eq!(octal(b"777777777777"), Ok((1 << 36) - 1));
    }

    #[test]
    fn base_256_fields() {
        assert_eq!(number(b"\x80\0\0\0\0\0\x01\x02"), Ok(258));
        assert_eq!(number(&[0xff; 12]), Ok(-1));
        assert_eq!(number(&[0xff; 8]), Ok(-1));
        assert_eq!(number(b"\xff\xff\xff\xff\xff\xff\xff\xfe"), Ok(-2));
        assert!(number(b"\x80\0\0\x01\0\0\0\0\0\0\0\0").is_err());
        assert!(number(b"\x80\0\0\0\x80\0\0\0\0\0\0\0").is_err());
        assert_eq!(number(b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff"), Ok(i64::MAX));
        assert_eq!(number(b"\xff\xff\xff\xff\x80\0\0\0\0\0\0\0"), Ok(i64::MIN));
    }
}
