//! The comments of the .proto files, by what they stand at. Pure.

use std::collections::HashMap;

use prost_reflect::{
    DescriptorPool, EnumDescriptor, EnumValueDescriptor, FieldDescriptor, FileDescriptor, MessageDescriptor,
    MethodDescriptor,
};

/// Field number of `package` in a FileDescriptorProto: the comment that heads a file stands there.
const PACKAGE: i32 = 2;

/// Comments by file and place.
#[derive(Debug, Default)]
pub struct Comments(HashMap<(String, Vec<i32>), String>);

impl Comments {
    /// All comments of these files.
    pub fn of(pool: &DescriptorPool) -> Self {
        let mut found = HashMap::new();
        for file in pool.file_descriptor_protos() {
            for place in file.source_code_info.iter().flat_map(|info| &info.location) {
                let both = [place.leading_comments.as_deref(), place.trailing_comments.as_deref()];
                let lines =
                    both.into_iter().flatten().flat_map(str::lines).map(str::trim).filter(|line| !line.is_empty());
                let text = lines.collect::<Vec<_>>().join(" ");
                if !text.is_empty() {
                    found.insert((file.name().to_owned(), place.path.clone()), text);
                }
            }
        }
        Self(found)
    }

    fn at(&self, file: &FileDescriptor, path: &[i32]) -> Option<&str> {
        self.0.get(&(file.name().to_owned(), path.to_vec())).map(String::as_str)
    }

    /// At the head of a file.
    pub fn of_file(&self, file: &FileDescriptor) -> Option<&str> {
        self.at(file, &[PACKAGE])
    }

    /// Of a call.
    pub fn of_method(&self, method: &MethodDescriptor) -> Option<&str> {
        self.at(&method.parent_service().parent_file(), method.path())
    }

    /// Of a message.
    pub fn of_message(&self, message: &MessageDescriptor) -> Option<&str> {
        self.at(&message.parent_file(), message.path())
    }

    /// Of a field.
    pub fn of_field(&self, field: &FieldDescriptor) -> Option<&str> {
        self.at(&field.parent_file(), field.path())
    }

    /// Of an enum.
    pub fn of_enum(&self, kind: &EnumDescriptor) -> Option<&str> {
        self.at(&kind.parent_file(), kind.path())
    }

    /// Of a value of an enum.
    pub fn of_value(&self, value: &EnumValueDescriptor) -> Option<&str> {
        self.at(&value.parent_file(), value.path())
    }
}
