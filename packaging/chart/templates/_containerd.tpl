{{- define "soci.containerd" -}}
{{- with .Values.containerd -}}
{{- if .override -}}
{{ .override }}
{{- else -}}
version = {{ if eq (int .version) 1 }}2{{ else }}3{{ end }}

[proxy_plugins.soci]
  type = "snapshot"
  address = {{ $.Values.node.socket | quote }}
  [proxy_plugins.soci.exports]
    root = {{ $.Values.node.root | quote }}
    enable_remote_snapshot_annotations = "true"
{{- if .forAllPods }}

[plugins.{{ if eq (int .version) 1 }}"io.containerd.grpc.v1.cri".containerd{{ else }}"io.containerd.cri.v1.images"{{ end }}]
  snapshotter = "soci"
  disable_snapshot_annotations = false
{{- end }}
{{ end -}}
{{- end -}}
{{- end -}}
