#include "simgpu/state/mig.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <set>
#include <thread>

namespace simgpu {
namespace {

// A machine of one A100 of 40 GB (its table is the public example), an H100 and a T4, which has no
// MIG.
class MigTest : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/dev/shm/simgpu-mig-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    folder_ = name;
    setenv("SIMGPU_STATE", name, 1);
    setenv("SIMGPU_CARDS", "A100-40,H100-80,T4", 1);
    std::string error;
    state_ = State::Open(&error);
    ASSERT_NE(state_, nullptr) << error;
    mig_ = std::make_unique<Mig>(state_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  uint32_t Create(uint32_t profile, uint32_t start = Mig::kAnywhere, uint32_t card = 0) {
    uint32_t id = 99;
    EXPECT_EQ(mig_->CreateGpuInstance(card, profile, start, &id), Mig::Answer::kOk);
    return id;
  }
  Mig::Answer Refused(uint32_t profile, uint32_t start = Mig::kAnywhere, uint32_t card = 0) {
    uint32_t id = 99;
    return mig_->CreateGpuInstance(card, profile, start, &id);
  }

  std::string folder_;
  State* state_ = nullptr;
  std::unique_ptr<Mig> mig_;
};

TEST_F(MigTest, OnlyWhereTheModelHasIt) {
  EXPECT_EQ(mig_->SetMode(2, true), Mig::Answer::kNotSupported);
  EXPECT_EQ(Refused(19, Mig::kAnywhere, 2), Mig::Answer::kNotSupported);
  EXPECT_FALSE(mig_->GetMode(2).current);
  EXPECT_EQ(Refused(19), Mig::Answer::kOff);
  EXPECT_EQ(mig_->SetMode(0, true), Mig::Answer::kOk);
  EXPECT_TRUE(mig_->GetMode(0).current);
  EXPECT_FALSE(mig_->GetMode(1).current);
  EXPECT_EQ(mig_->SetMode(0, false), Mig::Answer::kOk);
  EXPECT_FALSE(mig_->GetMode(0).current);
}

// The whole card in sevenths, and nothing beside them.
TEST_F(MigTest, SevenSlices) {
  ASSERT_EQ(mig_->SetMode(0, true), Mig::Answer::kOk);
  std::set<uint32_t> ids;
  for (uint32_t i = 0; i < 7; ++i) EXPECT_TRUE(ids.insert(Create(19)).second);
  EXPECT_EQ(ids, (std::set<uint32_t>{7, 8, 9, 10, 11, 12, 13}));
  for (const uint32_t profile : {19u, 20u, 15u, 14u, 9u, 5u, 0u}) {
    EXPECT_EQ(Refused(profile), Mig::Answer::kNoRoom) << profile;
    EXPECT_EQ(mig_->Remaining(0, *mig_->FindProfile(0, profile)), 0u);
  }
  EXPECT_EQ(mig_->DestroyGpuInstance(0, 9), Mig::Answer::kOk);
  EXPECT_EQ(mig_->DestroyGpuInstance(0, 9), Mig::Answer::kNotFound);
  EXPECT_EQ(mig_->Remaining(0, *mig_->FindProfile(0, 19)), 1u);
  EXPECT_EQ(mig_->Remaining(0, *mig_->FindProfile(0, 14)), 0u);
  EXPECT_EQ(mig_->DestroyGpuInstance(0, 10), Mig::Answer::kOk);
  // Slices 2 and 3 are free: exactly where a 2g may begin.
  EXPECT_EQ(Create(14), 4u);
  EXPECT_EQ(Refused(77), Mig::Answer::kNotFound);
}

TEST_F(MigTest, MixedSizesLieWhereTheyMay) {
  ASSERT_EQ(mig_->SetMode(0, true), Mig::Answer::kOk);
  EXPECT_EQ(Refused(9, 2), Mig::Answer::kBadPlace);
  EXPECT_EQ(Refused(9, 9), Mig::Answer::kBadPlace);
  EXPECT_EQ(Create(9, 4), 2u);
  EXPECT_EQ(Create(5), 1u);
  EXPECT_TRUE(mig_->GpuInstances(1).empty());
  const std::vector<GpuInstance> there = mig_->GpuInstances(0);
  ASSERT_EQ(there.size(), 2u);
  EXPECT_STREQ(there[0].profile->name, "4g.20gb");
  EXPECT_EQ(there[0].start, 0u);
  EXPECT_STREQ(there[1].profile->name, "3g.20gb");
  EXPECT_EQ(there[1].start, 4u);
  EXPECT_EQ(mig_->SetMode(0, false), Mig::Answer::kInUse);
  EXPECT_TRUE(mig_->GetMode(0).pending);
  for (const GpuInstance& one : there) {
    EXPECT_EQ(mig_->DestroyGpuInstance(0, one.id), Mig::Answer::kOk);
  }
  // Only one with media engines at a time.
  Create(20);
  EXPECT_EQ(Refused(20), Mig::Answer::kNoRoom);
  // Six of seven compute slices are left, but of the wide kind only three places.
  EXPECT_EQ(mig_->Remaining(0, *mig_->FindProfile(0, 19)), 6u);
  EXPECT_EQ(mig_->Remaining(0, *mig_->FindProfile(0, 15)), 3u);
}

TEST_F(MigTest, ComputeInstances) {
  ASSERT_EQ(mig_->SetMode(0, true), Mig::Answer::kOk);
  const uint32_t whole = Create(0);
  GpuInstance instance;
  ASSERT_TRUE(mig_->FindGpuInstance(0, whole, &instance));
  // As "nvidia-smi mig -lcip" lists them on such a card: slices, how many, SMs.
  const std::vector<ComputeProfile> profiles =
      ComputeProfiles(state_->card(0).profile, *instance.profile);
  const uint32_t kExpected[][3] = {{1, 7, 14}, {2, 3, 28}, {3, 2, 42}, {4, 1, 56}, {7, 1, 98}};
  ASSERT_EQ(profiles.size(), 5u);
  for (size_t i = 0; i < profiles.size(); ++i) {
    EXPECT_EQ(profiles[i].slices, kExpected[i][0]);
    EXPECT_EQ(profiles[i].instances, kExpected[i][1]);
    EXPECT_EQ(profiles[i].sms, kExpected[i][2]);
  }
  uint32_t id = 99;
  ASSERT_EQ(mig_->CreateComputeInstance(0, whole, 3, Mig::kAnywhere, &id), Mig::Answer::kOk);
  EXPECT_EQ(id, 0u);
  EXPECT_EQ(mig_->CreateComputeInstance(0, whole, 2, 1, &id), Mig::Answer::kBadPlace);
  ASSERT_EQ(mig_->CreateComputeInstance(0, whole, 2, 4, &id), Mig::Answer::kOk);
  EXPECT_EQ(id, 1u);
  EXPECT_EQ(mig_->CreateComputeInstance(0, whole, 0, Mig::kAnywhere, &id), Mig::Answer::kNoRoom);
  EXPECT_EQ(mig_->CreateComputeInstance(0, whole, 8, Mig::kAnywhere, &id), Mig::Answer::kNotFound);
  EXPECT_EQ(mig_->CreateComputeInstance(0, 3, 0, Mig::kAnywhere, &id), Mig::Answer::kNotFound);
  EXPECT_EQ(mig_->DestroyGpuInstance(0, whole), Mig::Answer::kInUse);
  EXPECT_EQ(mig_->DestroyComputeInstance(0, whole, 0), Mig::Answer::kOk);
  EXPECT_EQ(mig_->Remaining(0, whole, profiles[1]), 2u);
  EXPECT_EQ(mig_->Remaining(0, whole, profiles[3]), 1u);
  const std::vector<ComputeInstance> left = mig_->ComputeInstances(0, whole);
  ASSERT_EQ(left.size(), 1u);
  EXPECT_EQ(Mig::Name(instance, left[0]), "MIG 3c.7g.40gb");
  EXPECT_EQ(mig_->DestroyComputeInstance(0, whole, 1), Mig::Answer::kOk);
  EXPECT_EQ(mig_->DestroyGpuInstance(0, whole), Mig::Answer::kOk);
}

TEST_F(MigTest, NamesAreTheSameEverywhereAndDiffer) {
  std::set<std::string> uuids;
  for (uint32_t card = 0; card < 3; ++card) {
    for (uint32_t gpu = 0; gpu < kGpuInstanceIds; ++gpu) {
      for (uint32_t id = 0; id < kComputeInstanceIds; ++id) {
        const std::string uuid = mig_->Uuid(card, gpu, id);
        EXPECT_EQ(uuid.size(), 40u);
        EXPECT_TRUE(uuids.insert(uuid).second);
        EXPECT_EQ(uuid, Mig(state_).Uuid(card, gpu, id));
      }
    }
  }
}

// Runs `body` in a child and waits for its end; true when it answered 0.
template <typename Body>
bool InChild(Body body) {
  const pid_t pid = fork();
  if (pid == 0) _exit(body());
  int status = 0;
  return waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

TEST_F(MigTest, OtherProcessesSeeTheSameAndOutliveTheMaker) {
  EXPECT_TRUE(InChild([&] {
    uint32_t id = 0;
    std::string error;
    const State* const state = State::Open(&error);
    Mig mig(state);
    if (mig.SetMode(0, true) != Mig::Answer::kOk) return 1;
    return mig.CreateGpuInstance(0, 9, Mig::kAnywhere, &id) == Mig::Answer::kOk ? 0 : 2;
  }));
  EXPECT_TRUE(mig_->GetMode(0).current);
  const std::vector<GpuInstance> there = mig_->GpuInstances(0);
  ASSERT_EQ(there.size(), 1u);
  EXPECT_EQ(there[0].profile->id, 9u);
}

TEST_F(MigTest, UseOfTheCardPutsTheModeOff) {
  ASSERT_EQ(state_->Take(0, State::Kind::kAllocation, kGranule), State::Answer::kOk);
  EXPECT_EQ(mig_->SetMode(0, true), Mig::Answer::kInUse);
  EXPECT_FALSE(mig_->GetMode(0).current);
  EXPECT_TRUE(mig_->GetMode(0).pending);
  state_->Give(0, State::Kind::kAllocation, kGranule);
  EXPECT_TRUE(mig_->GetMode(0).current);
}

// Writers that are killed at any moment leave neither a lock nor an impossible division behind.
TEST_F(MigTest, KilledWritersLeaveItWhole) {
  ASSERT_EQ(mig_->SetMode(0, true), Mig::Answer::kOk);
  for (int round = 0; round < 40; ++round) {
    std::vector<pid_t> children;
    for (int i = 0; i < 3; ++i) {
      const pid_t pid = fork();
      if (pid == 0) {
        constexpr uint32_t kProfiles[] = {19, 14, 9, 15, 5, 20};
        for (uint32_t n = static_cast<uint32_t>(getpid());; ++n) {
          uint32_t id = 0;
          uint32_t part = 0;
          if (mig_->CreateGpuInstance(0, kProfiles[n % 6], Mig::kAnywhere, &id) !=
              Mig::Answer::kOk) {
            continue;
          }
          mig_->CreateComputeInstance(0, id, 0, Mig::kAnywhere, &part);
          mig_->DestroyComputeInstance(0, id, part);
          mig_->DestroyGpuInstance(0, id);
        }
      }
      children.push_back(pid);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(round % 7));
    for (const pid_t pid : children) {
      kill(pid, SIGKILL);
      waitpid(pid, nullptr, 0);
    }
    uint32_t taken = 0;
    uint32_t slices = 0;
    for (const GpuInstance& one : mig_->GpuInstances(0)) {
      const uint32_t bits = ((1u << one.profile->size) - 1) << one.start;
      EXPECT_EQ(taken & bits, 0u);
      EXPECT_NE(one.profile->starts >> one.start & 1, 0u);
      taken |= bits;
      slices += one.profile->compute_slices;
      for (const ComputeInstance& part : mig_->ComputeInstances(0, one.id)) {
        EXPECT_EQ(mig_->DestroyComputeInstance(0, one.id, part.id), Mig::Answer::kOk);
      }
      EXPECT_EQ(mig_->DestroyGpuInstance(0, one.id), Mig::Answer::kOk);
    }
    EXPECT_LE(slices, 7u);
    EXPECT_EQ(mig_->Remaining(0, *mig_->FindProfile(0, 19)), 7u);
  }
}

TEST_F(MigTest, AForeignBookIsNotTouched) {
  std::ofstream(folder_ + "/mig") << "something else";
  EXPECT_EQ(mig_->SetMode(0, true), Mig::Answer::kNoBook);
  EXPECT_FALSE(mig_->GetMode(0).current);
  EXPECT_TRUE(mig_->GpuInstances(0).empty());
}

}  // namespace
}  // namespace simgpu
