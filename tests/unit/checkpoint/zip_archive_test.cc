// Zip archives that lie, each refused with an error that says where.

#include <gtest/gtest.h>

#include <cstdint>
#include <string>

#include "tests/unit/checkpoint/refusal.h"

namespace sconce {
namespace {

ZipBuilder Sound() {
  TensorPickle tensor;
  tensor.numel = 4;
  tensor.shape = {4};
  tensor.strides = {1};
  return TorchZip(pickle::Stream(pickle::OrderedDict({{"w", tensor.Build()}})),
                  {{"0", Bytes<float>({1, 2, 3, 4})}});
}

ZipRecord& Storage(ZipBuilder& zip) { return zip.records[4]; }
ZipRecord& Named(ZipBuilder& zip, std::string_view name) {
  for (ZipRecord& record : zip.records) {
    if (record.name == name) return record;
  }
  throw std::logic_error("no such record");
}

ZipRecord Extra(std::string name, std::string data = "x") {
  ZipRecord record;
  record.name = std::move(name);
  record.data = std::move(data);
  return record;
}

TEST(ZipArchiveTest, SoundArchiveIsRead) {
  for (const bool zip64 : {true, false}) {
    ZipBuilder zip = Sound();
    zip.zip64 = zip64;
    const Opened opened = OpenBytes(zip.Build());
    ASSERT_TRUE(opened.ok()) << opened.checkpoint.status();
    EXPECT_EQ(Read<float>(**opened.checkpoint, opened->tensors()[0]),
              (std::vector<float>{1, 2, 3, 4}));
  }
}

TEST(ZipArchiveTest, ExportedProgramsOfEarlierVersionsAreToldHowToBeRead) {
  ZipBuilder zip;
  zip.zip64 = false;
  for (const char* name : {"version", "serialized_state_dict.pt", "serialized_constants.pt",
                           "serialized_example_inputs.pt", "serialized_exported_program.json",
                           "extra_files/note.txt"}) {
    zip.records.push_back(Extra(name));
  }
  ExpectRefused(zip.Build(), {"exported program", "PyTorch 2.8", "torch.export.load",
                              "state_dict with torch.save"});
  zip.records.erase(zip.records.begin() + 4);
  ExpectRefused(zip.Build(), {"one top folder", "'version'"});
}

TEST(ZipArchiveTest, EveryTruncationIsRefused) {
  const std::string whole = Sound().Build();
  for (size_t size = 1; size < whole.size(); size += size < 200 ? 1 : 37) {
    SCOPED_TRACE(size);
    EXPECT_FALSE(OpenBytes(whole.substr(0, size)).ok());
  }
  ExpectRefused(whole.substr(0, whole.size() - 1), {"end record", "truncated"});
  ExpectRefused(whole.substr(0, whole.size() / 2), {"end record", "truncated"});
  ExpectRefused(whole.substr(0, 10), {"end record", "10 bytes"});
}

TEST(ZipArchiveTest, BytesAfterTheArchiveAreRefused) {
  ZipBuilder zip = Sound();
  zip.after_end = "x";
  ExpectRefused(zip.Build(), {"end record", "bytes after the archive"});
}

TEST(ZipArchiveTest, EndRecordsThatDisagreeAreRefused) {
  ZipBuilder zip = Sound();
  zip.change_end = [](ZipBuilder::End& end) { end.small_entries -= 1; };
  ExpectRefused(zip.Build(), {"disagree", "number of entries"});
  zip.change_end = [](ZipBuilder::End& end) { end.small_directory_size += 1; };
  ExpectRefused(zip.Build(), {"disagree", "size"});
  zip.change_end = [](ZipBuilder::End& end) { end.small_directory_offset -= 1; };
  ExpectRefused(zip.Build(), {"disagree", "offset"});
  zip.change_end = [](ZipBuilder::End& end) { end.locator_offset -= 1; };
  ExpectRefused(zip.Build(), {"zip64 end record", "locator"});
  zip.change_end = [](ZipBuilder::End& end) { end.zip64_record_size = 1000; };
  ExpectRefused(zip.Build(), {"zip64 end record", "1000"});
  zip.change_end = [](ZipBuilder::End& end) { end.disks = 2; };
  ExpectRefused(zip.Build(), {"one file", "split"});
  zip.zip64 = false;
  zip.change_end = [](ZipBuilder::End& end) { end.small_directory_offset = 0xFFFFFFFF; };
  ExpectRefused(zip.Build(), {"zip64 end record", "none"});
}

TEST(ZipArchiveTest, SaturatedEndRecordDefersToZip64) {
  ZipBuilder zip = Sound();
  zip.change_end = [](ZipBuilder::End& end) {
    end.small_entries = 0xFFFF;
    end.small_directory_offset = end.small_directory_size = 0xFFFFFFFF;
  };
  EXPECT_TRUE(OpenBytes(zip.Build()).ok());
}

TEST(ZipArchiveTest, CentralDirectoryOutsideTheFileIsRefused) {
  ZipBuilder zip = Sound();
  zip.change_end = [](ZipBuilder::End& end) {
    end.directory_offset = uint64_t{1} << 40;
    end.small_directory_offset = 0xFFFFFFFF;
  };
  ExpectRefused(zip.Build(), {"central directory inside", "1099511627776"});
  zip.change_end = [](ZipBuilder::End& end) {
    end.directory_size = ~uint64_t{0};
    end.small_directory_size = 0xFFFFFFFF;
  };
  ExpectRefused(zip.Build(), {"central directory inside", "18446744073709551615"});
}

TEST(ZipArchiveTest, GapAfterTheCentralDirectoryIsRefused) {
  ZipBuilder zip = Sound();
  zip.before_end = "gap";
  ExpectRefused(zip.Build(), {"central directory to end at"});
}

TEST(ZipArchiveTest, LocalNameThatDiffersIsRefused) {
  ZipBuilder zip = Sound();
  Storage(zip).local_name = "archive/data/1";
  ExpectRefused(zip.Build(), {"record 'archive/data/0'", "same name"});
  Storage(zip).local_name = "archive/data/0x";
  ExpectRefused(zip.Build(), {"record 'archive/data/0'", "same name"});
}

TEST(ZipArchiveTest, DuplicateAndCaseCollidingNamesAreRefused) {
  ZipBuilder zip = Sound();
  zip.records.push_back(Extra("archive/data/0"));
  ExpectRefused(zip.Build(), {"distinct", "'archive/data/0' twice"});
  zip.records.back() = Extra("archive/DATA.pkl");
  ExpectRefused(zip.Build(), {"distinct", "'archive/data.pkl' twice"});
}

TEST(ZipArchiveTest, NoOrSeveralTopFoldersAreRefused) {
  ZipBuilder zip = Sound();
  zip.records.push_back(Extra("other/data.pkl"));
  ExpectRefused(zip.Build(), {"record 'other/data.pkl'", "top folder 'archive'"});
  zip.records.back() = Extra("archivedata/1");
  ExpectRefused(zip.Build(), {"record 'archivedata/1'", "outside"});
  ZipBuilder flat;
  flat.records.push_back(Extra("data.pkl"));
  ExpectRefused(flat.Build(), {"top folder", "'data.pkl' outside"});
}

TEST(ZipArchiveTest, NamesThatLeaveTheArchiveAreRefused) {
  using namespace std::string_literals;
  for (const std::string& name :
       {"archive/../../etc/passwd"s, "/archive/x"s, "archive\\x"s, "archive/a\0b"s, "archive//x"s,
        "archive/./x"s, "C:/archive/x"s, ".."s, ""s}) {
    SCOPED_TRACE(name);
    ZipBuilder zip = Sound();
    zip.records.push_back(Extra(name));
    ExpectRefused(zip.Build(), {"record '", "expected a"});
  }
}

TEST(ZipArchiveTest, EncryptedRecordsAreRefused) {
  for (const uint16_t flags : {0x0001, 0x0040, 0x2000}) {
    ZipBuilder zip = Sound();
    Storage(zip).flags |= flags;
    ExpectRefused(zip.Build(), {"record 'archive/data/0'", "encrypted"});
    Storage(zip).flags = 0x0808;
    Storage(zip).local_flags = 0x0808 | flags;
    ExpectRefused(zip.Build(), {"record 'archive/data/0'", "encrypted"});
  }
}

TEST(ZipArchiveTest, CompressedStoragesAreRefused) {
  ZipBuilder zip = Sound();
  Storage(zip).method = 8;
  ExpectRefused(zip.Build(), {"archive/data/0", "uncompressed storage"});
  Storage(zip).method = 12;
  ExpectRefused(zip.Build(), {"archive/data/0", "compression method 12"});
  Storage(zip).method = 0;
  Storage(zip).local_method = 8;
  ExpectRefused(zip.Build(), {"archive/data/0", "compression method 0 in the local header"});
  Storage(zip).local_method.reset();
  zip.records[0].method = 8;
  ExpectRefused(zip.Build(), {"archive/data.pkl", "compressed"});
}

TEST(ZipArchiveTest, ImpossibleCompressionRatioIsRefused) {
  ZipBuilder zip = Sound();
  zip.records.push_back(Extra("archive/code/net.py", std::string(100, 'x')));
  zip.records.back().method = 8;
  zip.records.back().size = 50'000;
  EXPECT_TRUE(OpenBytes(zip.Build()).ok());
  zip.records.back().size = 2'000'000;
  ExpectRefused(zip.Build(), {"record 'archive/code/net.py'", "1032 times", "2000000"});
}

TEST(ZipArchiveTest, SizesThatDifferAreRefused) {
  ZipBuilder zip = Sound();
  Storage(zip).size = 400;
  ExpectRefused(zip.Build(), {"record 'archive/data/0'", "equal sizes", "16", "400"});
  Storage(zip).size.reset();
  Storage(zip).local_size = Storage(zip).local_stored_size = 15;
  ExpectRefused(zip.Build(), {"record 'archive/data/0'", "in the local header too", "15"});
  Storage(zip).local_size = Storage(zip).local_stored_size = 16;
  EXPECT_TRUE(OpenBytes(zip.Build()).ok());
  Storage(zip).local_crc = 1;
  ExpectRefused(zip.Build(), {"record 'archive/data/0'", "checksum"});
}

TEST(ZipArchiveTest, ZerosInTheLocalHeaderNeedADataDescriptor) {
  ZipBuilder zip = Sound();
  Storage(zip).flags = 0x0800;
  ExpectRefused(zip.Build(), {"record 'archive/data/0'", "in the local header too"});
}

TEST(ZipArchiveTest, OverlappingRecordsAreRefused) {
  // The classic: one record's data contains another record, header and all.
  ZipBuilder zip = Sound();
  const std::string plain = zip.Build();
  const auto local = static_cast<uint32_t>(plain.find("PK\3\4", plain.find("archive/data/0")));
  Named(zip, "archive/.data/serialization_id").local_offset = local;
  Named(zip, "archive/.data/serialization_id").local_name = "archive/.data/serialization_id";
  ExpectRefused(zip.Build(), {"same name"});

  ZipBuilder longer = Sound();
  ZipRecord& storage = Storage(longer);
  storage.size = storage.stored_size = 100;
  ExpectRefused(longer.Build(), {"overlapping"});
}

TEST(ZipArchiveTest, RecordsPastTheEndAreRefused) {
  ZipBuilder zip = Sound();
  Storage(zip).local_offset = 0xFFFFFF00;
  ExpectRefused(zip.Build(), {"record 'archive/data/0'", "before the central directory"});
  Storage(zip).local_offset.reset();
  Storage(zip).size = Storage(zip).stored_size = 0x7FFFFFFF;
  ExpectRefused(zip.Build(), {"record 'archive/data/0'", "before the central directory"});
  // Sizes that would wrap around in 64 bits.
  Storage(zip).size = Storage(zip).stored_size = 0xFFFFFFFF;
  Storage(zip).central_extra = LittleEndian<uint16_t>(1) + LittleEndian<uint16_t>(16) +
                               LittleEndian(~uint64_t{0}) + LittleEndian(~uint64_t{0});
  ExpectRefused(zip.Build(), {"record 'archive/data/0'", "18446744073709551615 bytes"});
}

TEST(ZipArchiveTest, BadZip64ExtrasAreRefused) {
  ZipBuilder zip = Sound();
  ZipRecord& storage = Storage(zip);
  storage.size = storage.stored_size = 0xFFFFFFFF;
  ExpectRefused(zip.Build(), {"record 'archive/data/0'", "zip64 extra field", "none"});
  const std::string two = LittleEndian<uint64_t>(16) + LittleEndian<uint64_t>(16);
  const std::string good = LittleEndian<uint16_t>(1) + LittleEndian<uint16_t>(16) + two;
  storage.central_extra = good;
  EXPECT_TRUE(OpenBytes(zip.Build()).ok());
  storage.central_extra = LittleEndian<uint16_t>(1) + LittleEndian<uint16_t>(8) + two.substr(0, 8);
  ExpectRefused(zip.Build(), {"zip64 extra field", "shorter"});
  storage.central_extra =
      LittleEndian<uint16_t>(1) + LittleEndian<uint16_t>(24) + two + two.substr(0, 8);
  ExpectRefused(zip.Build(), {"zip64 extra field", "8 bytes more"});
  storage.central_extra = good + good;
  ExpectRefused(zip.Build(), {"one zip64 extra field", "two"});
  storage.central_extra = LittleEndian<uint16_t>(1) + LittleEndian<uint16_t>(500) + two;
  ExpectRefused(zip.Build(), {"extra field", "500"});
  storage.central_extra = "x";
  ExpectRefused(zip.Build(), {"extra fields", "loose"});
}

TEST(ZipArchiveTest, LocalZip64ExtraIsCompared) {
  ZipBuilder zip = Sound();
  ZipRecord& storage = Storage(zip);
  storage.local_size = storage.local_stored_size = 0xFFFFFFFF;
  const auto extra = [](uint64_t size) {
    return LittleEndian<uint16_t>(1) + LittleEndian<uint16_t>(16) + LittleEndian(size) +
           LittleEndian(size);
  };
  storage.local_extra = extra(16);
  EXPECT_TRUE(OpenBytes(zip.Build()).ok());
  storage.local_extra = extra(17);
  ExpectRefused(zip.Build(), {"record 'archive/data/0'", "in the local header too"});
}

TEST(ZipArchiveTest, EntryCountThatDoesNotFitTheDirectoryIsRefused) {
  ZipBuilder zip = Sound();
  zip.change_end = [](ZipBuilder::End& end) {
    end.entries = uint64_t{1} << 60;
    end.small_entries = 0xFFFF;
  };
  ExpectRefused(zip.Build(), {"entries", "1152921504606846976"});
  zip.change_end = [](ZipBuilder::End& end) { end.entries = end.small_entries -= 1; };
  ExpectRefused(zip.Build(), {"entries to fill the central directory"});
  zip.change_end = [](ZipBuilder::End& end) { end.entries = end.small_entries += 1; };
  ExpectRefused(zip.Build(), {"entries in the central directory"});
  EXPECT_FALSE(OpenBytes(ZipBuilder().Build()).ok());
}

TEST(ZipArchiveTest, RecordsOnAnotherDiskAreRefused) {
  ZipBuilder zip = Sound();
  Storage(zip).disk = 1;
  ExpectRefused(zip.Build(), {"record 'archive/data/0'", "another disk"});
}

TEST(TorchZipTest, BadVersionByteOrderOrAlignmentIsRefused) {
  const struct {
    const char* name;
    const char* data;
  } cases[] = {{"archive/version", "0"},
               {"archive/version", "11\n"},
               {"archive/version", "three"},
               {"archive/version", ""},
               {"archive/byteorder", "BIG"},
               {"archive/byteorder", "middle"},
               {"archive/.storage_alignment", "0"},
               {"archive/.storage_alignment", "-64"},
               {"archive/.format_version", "2"}};
  for (const auto& bad : cases) {
    SCOPED_TRACE(bad.name);
    ZipBuilder zip = Sound();
    Named(zip, bad.name).data = bad.data;
    const std::string shown = std::string(bad.data) == "11\n" ? "11" : bad.data;
    ExpectRefused(zip.Build(), {bad.name, "expected", "got '" + shown + "'"});
  }
  ZipBuilder without = Sound();
  Named(without, "archive/version").name = "archive/else";
  ExpectRefused(without.Build(), {"record 'version'", "none"});
  ZipBuilder huge = Sound();
  Named(huge, "archive/byteorder").data = std::string(100'000, 'l');
  ExpectRefused(huge.Build(), {"archive/byteorder", "at most 64 bytes"});
}

TEST(TorchZipTest, OldFilesWithoutNotesAreRead) {
  ZipBuilder zip = Sound();
  ZipBuilder old;
  old.records = {zip.records[0], Storage(zip), Named(zip, "archive/version")};
  EXPECT_TRUE(OpenBytes(old.Build()).ok());
}

TEST(TorchZipTest, OtherZipArchivesAreNamed) {
  ZipBuilder zip = Sound();
  zip.records.push_back(Extra("archive/constants.pkl"));
  ExpectRefused(zip.Build(), {"TorchScript"});
  zip.records.back() = Extra("archive/archive_format", "pt2");
  ExpectRefused(zip.Build(), {"exported program"});
  ZipBuilder plain;
  plain.records.push_back(Extra("photos/cat.jpg"));
  ExpectRefused(plain.Build(), {"'data.pkl' in 'photos'", "torch.save did not write it"});
}

TEST(TorchZipTest, TooLargeAPickleIsRefusedBeforeItIsRead) {
  CheckpointOptions options;
  options.max_metadata_bytes = 10'000;
  ZipBuilder zip = Sound();
  zip.records[0].data += std::string(20'000, 'x');
  const Opened opened = OpenBytes(zip.Build(), options);
  ASSERT_FALSE(opened.ok());
  EXPECT_NE(opened.checkpoint.status().message().find("archive/data.pkl: expected at most 10000"),
            std::string::npos)
      << opened.checkpoint.status();
}

}  // namespace
}  // namespace sconce
