# What the code needs, as the code says it; `gauntlet doctor` reads the same file.
locals {
  needs = yamldecode(file("${path.module}/../pipelines/doctor/needs.yaml"))

  members = merge(
    { for name, account in google_service_account.needed : name => [account.member] },
    { submitter = var.submitters },
  )

  # Known before anything is made: who, on what, by which role.
  named_grants = {
    for grant in local.needs.grants :
    "${grant.who} on ${grant.target}: ${try(grant.role, "own")}" => merge({ role = "" }, grant)
  }

  # One for each member. Accounts are named by their place in the list, as their addresses are not known yet.
  grants = merge([
    for key, grant in local.named_grants : {
      for index in range(grant.who == "submitter" ? length(var.submitters) : 1) :
      "${key} ${index}" => merge(grant, {
        role   = grant.role != "" ? grant.role : google_project_iam_custom_role.own[grant.who].id
        member = tolist(local.members[grant.who])[index]
      })
    }
  ]...)
}

resource "google_project_iam_custom_role" "own" {
  for_each = { for grant in local.named_grants : grant.who => grant if grant.role == "" }

  role_id     = "gauntlet_${each.key}"
  title       = "Gauntlet ${each.key}"
  description = local.needs.accounts[each.key].purpose
  permissions = each.value.permissions
}

resource "google_project_iam_member" "needed" {
  for_each = { for key, grant in local.grants : key => grant if grant.target == "project" }

  project = var.project
  role    = each.value.role
  member  = each.value.member
}

resource "google_storage_bucket_iam_member" "needed" {
  for_each = { for key, grant in local.grants : key => grant if contains(keys(local.needs.buckets), grant.target) }

  bucket = google_storage_bucket.needed[each.value.target].name
  role   = each.value.role
  member = each.value.member
}

resource "google_artifact_registry_repository_iam_member" "needed" {
  for_each = { for key, grant in local.grants : key => grant if contains(keys(local.needs.repositories), grant.target) }

  location   = var.region
  repository = google_artifact_registry_repository.needed[each.value.target].name
  role       = each.value.role
  member     = each.value.member
}

resource "google_service_account_iam_member" "needed" {
  for_each = { for key, grant in local.grants : key => grant if contains(keys(local.needs.accounts), grant.target) }

  service_account_id = google_service_account.needed[each.value.target].name
  role               = each.value.role
  member             = each.value.member
}
