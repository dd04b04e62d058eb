//! Reads the annotation `vpc.amazonaws.com/pod-eni`, which the VPC resource controller writes for pods with security groups of their own.
//!
//! The annotation is input from the cluster: it is bounded, and an annotation that cannot be read gives no ENIs.

use serde::Deserialize;

use super::objects::Eni;

/// Name of the annotation.
pub const ANNOTATION: &str = "vpc.amazonaws.com/pod-eni";
/// One entry is about 200 bytes and a pod has one or two; 16 KiB is far past anything real.
const MAX_BYTES: usize = 16 * 1024;
/// An EC2 instance has at most 15 network interfaces.
const MAX_ENIS: usize = 16;
/// The longest real field is an IPv6 CIDR of 43 characters.
const MAX_FIELD: usize = 64;

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Entry {
    eni_id: String,
    private_ip: String,
    if_address: String,
    vlan_id: i32,
    subnet_cidr: String,
}

/// The ENIs that an annotation's value names; none when it is malformed or too large.
#[must_use]
pub fn parse(annotation: &str) -> Vec<Eni> {
    if annotation.len() > MAX_BYTES {
        return Vec::new();
    }
    let Ok(entries) = serde_json::from_str::<Vec<Entry>>(annotation) else {
        return Vec::new();
    };
    entries.into_iter().filter(Entry::is_sane).take(MAX_ENIS).map(Entry::into_eni).collect()
}

impl Entry {
    fn is_sane(&self) -> bool {
        let fields = [&self.eni_id, &self.private_ip, &self.if_address, &self.subnet_cidr];
        !self.eni_id.is_empty() && fields.iter().all(|field| field.len() <= MAX_FIELD)
    }

    fn into_eni(self) -> Eni {
        Eni {
            eni_id: self.eni_id,
            private_ip: self.private_ip,
            if_address: self.if_address,
            vlan_id: self.vlan_id,
            subnet_cidr: self.subnet_cidr,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REAL: &str = r#"[{"eniId":"eni-0a1","ifAddress":"02:aa:bb:cc:dd:ee","privateIp":"10.0.1.17","vlanId":3,
        "subnetCidr":"10.0.0.0/19","associationID":"trunk-assoc-1"}]"#;

    #[test]
    fn the_annotation_of_the_vpc_resource_controller_is_read() {
        let enis = parse(REAL);
        assert_eq!(enis.len(), 1);
        assert_eq!(enis[0].eni_id, "eni-0a1");
        assert_eq!(enis[0].private_ip, "10.0.1.17");
        assert_eq!(enis[0].if_address, "02:aa:bb:cc:dd:ee");
        assert_eq!(enis[0].vlan_id, 3);
        assert_eq!(enis[0].subnet_cidr, "10.0.0.0/19");
    }

    #[test]
    fn an_annotation_that_is_not_a_list_of_enis_gives_none() {
        for text in ["", "null", "{}", "[1]", r#"[{"eniId":7}]"#, "[{}]"] {
            assert_eq!(parse(text), Vec::new(), "{text}");
        }
    }

    #[test]
    fn an_oversized_annotation_gives_none_and_many_enis_are_cut() {
        let many = format!("[{}]", vec![r#"{"eniId":"eni-1"}"#; 100].join(","));
        assert_eq!(parse(&many).len(), MAX_ENIS);
        let huge = format!("[{}]", vec![r#"{"eniId":"eni-1"}"#; 2000].join(","));
        assert_eq!(parse(&huge), Vec::new());
        let long = format!(r#"[{{"eniId":"{}"}}]"#, "x".repeat(MAX_FIELD + 1));
        assert_eq!(parse(&long), Vec::new());
    }
}
