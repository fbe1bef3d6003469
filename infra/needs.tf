# What the code needs, as the code says it; `gauntlet doctor` reads the same file.
locals {
  needs = yamldecode(file("${path.module}/../pipelines/vertex/needs.yaml"))

  accounts = merge(local.needs.accounts, [for target in var.deployment_targets : local.needs.deployments[target].accounts]...)
  all_grants = concat(
    local.needs.grants,
    flatten([for target in var.deployment_targets : local.needs.deployments[target].grants]),
  )

  # Of everybody who is granted something: a name that is known before anything is made, and the member.
  members = merge(
    { for name, account in google_service_account.needed : name => { (name) = account.member } },
    { submitter = { for member in var.submitters : member => member } },
  )

  grants = merge([
    for grant in local.all_grants : {
      for name, member in local.members[grant.who] :
      "${name} on ${grant.target}: ${try(grant.role, "own")}" => {
        target = grant.target
        member = member
        role   = can(grant.role) ? grant.role : google_project_iam_custom_role.own[grant.who].id
      }
    }
  ]...)
}

resource "google_project_iam_custom_role" "own" {
  for_each = { for grant in local.needs.grants : grant.who => grant if !can(grant.role) }

  role_id     = "gauntlet_${each.key}"
  title       = "Gauntlet ${each.key}"
  description = local.accounts[each.key].purpose
  permissions = each.value.permissions
  depends_on  = [google_project_service.needed]
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
  for_each = { for key, grant in local.grants : key => grant if contains(keys(local.accounts), grant.target) }

  service_account_id = google_service_account.needed[each.value.target].name
  role               = each.value.role
  member             = each.value.member
}
